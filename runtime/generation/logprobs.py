"""How likely a model found a token that was chosen, and those that it found most likely."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from .largest import largest
from .log_loss import log_sum_exp

__all__ = ["TokenLogprob", "check_count", "logprob_of"]


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability, in nats, of a token in its place, and of the most likely ones there.

    They are the model's own, before penalties, masks and temperature.

    Attributes:
        token_id: the chosen token.
        logprob: its log-probability.
        top: ids and log-probabilities of the most likely tokens, the most likely first (ties: the
            lowest id); as many as were asked for, without impossible ones.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def check_count(count: object, vocab_size: int) -> None:
    """Refuse what is no number of tokens to list.

    Raises:
        InvalidInputError: if `count` is not None and not a whole number from 0 to `vocab_size`.
    """
    if count is not None and (type(count) is not int or not 0 <= count <= vocab_size):
        raise InvalidInputError(
            f"logprobs is {count!r:.60}; it must be a whole number from 0 to {vocab_size}, the "
            f"size of the vocabulary"
        )


def logprob_of(logits: NDArray[np.float32], token: int, count: int) -> TokenLogprob:
    """Return the log-probability that logits [V] give to `token`, and the `count` highest ones."""
    total = float(log_sum_exp(logits)[0])
    best = largest(logits, count).tolist() if count else []
    top = [(one, float(logits[one]) - total) for one in best]
    possible = tuple(pair for pair in top if pair[1] > -math.inf)
    return TokenLogprob(token, float(logits[token]) - total, possible)
