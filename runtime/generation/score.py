"""How likely a model finds texts: the log-probability of each of their tokens."""

from collections.abc import Sequence

from ..engines.base import Engine, State
from ..errors import InvalidInputError
from ..quantity import quantity
from .arguments import Prompt, as_batch
from .begin import Begin, Given
from .log_loss import log_loss
from .prefill import logit_pieces, pad, pieces_that_fit

__all__ = ["score"]

Scores = list[float]


def score(
    begin: Begin,
    engine: Engine,
    context: int,
    given: Given,
    target: Prompt | Sequence[Prompt],
    languages: tuple[str | None, str | None],
) -> Scores | list[Scores]:
    """Return the log-probabilities, in nats, of the tokens of a target, or of each of several.

    `languages` are those of the sources and of the targets; see `LanguageModel.score`.
    """
    targets, single = as_batch(target)
    wanted = [begin.target(one, languages[1]) for one in targets]
    read = begin.read(engine, given, languages[0])
    if not read.single and (single or len(read.starts) != len(wanted)):
        raise InvalidInputError(
            f"{quantity(len(read.starts), 'prompt')} cannot be scored with "
            f"{quantity(len(wanted), 'target')}; each needs its own"
        )
    starts = read.starts * len(wanted) if read.single else read.starts
    for start, ids in zip(starts, wanted, strict=True):
        if len(start) + len(ids) - 1 > context:
            raise InvalidInputError(
                f"a beginning of {quantity(len(start), 'token')} and a target of {len(ids)} do not "
                f"fit the context of {context}"
            )
    sources = None if read.sources is None else read.sources()
    with engine.new_state(len(wanted), context, sources) as state:
        scores = _scores(state, starts, wanted, engine.graph.vocab_size)
    return scores[0] if single else scores


def _scores(
    state: State, starts: Sequence[list[int]], targets: Sequence[list[int]], vocab_size: int
) -> list[Scores]:
    """Return the log-probabilities of each target after its start, on an empty state."""
    rows = [[*start, *target] for start, target in zip(starts, targets, strict=True)]
    ids, lengths = pad(rows)
    fed = ids[:, :-1]  # (B, T): nothing follows the last token of the longest row
    found: list[Scores] = [[] for _ in rows]
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
