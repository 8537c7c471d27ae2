"""How likely a model finds texts: the log-probability of each of their tokens."""

from collections.abc import Sequence

from ..engines.base import State
from .log_loss import log_loss
from .prefill import logit_pieces, pad, pieces_that_fit

__all__ = ["target_scores"]


def target_scores(
    state: State, starts: Sequence[list[int]], targets: Sequence[list[int]], vocab_size: int
) -> list[list[float]]:
    """Return the log-probabilities, in nats, of the tokens of each target after its start.

    Args:
        state: an empty state with a row for each target.
        starts: the ids before each target, at least one.
        targets: the ids of each target, at least one.
        vocab_size: the number of logits of a position.
    """
    rows = [[*start, *target] for start, target in zip(starts, targets, strict=True)]
    ids, lengths = pad(rows)
    fed = ids[:, :-1]  # (B, T): nothing follows the last token of the longest row
    found: list[list[float]] = [[] for _ in rows]
    sizes = pieces_that_fit(len(rows), fed.shape[1], vocab_size)
    for begin, logits in logit_pieces(state, fed, sizes):
        end = begin + logits.shape[1]
        for row, (start, length) in enumerate(zip(starts, lengths.tolist(), strict=True)):
            # The logits at a place are of the token after it.
            first, last = max(begin, len(start) - 1), min(end, length - 1)
            if first < last:
                own = logits[row, first - begin : last - begin]
                losses = log_loss(own, ids[row, first + 1 : last + 1])
                found[row] += (-losses).tolist()
    return found
