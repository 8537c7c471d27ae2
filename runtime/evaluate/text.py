"""Cross-entropy of a model on a text: every token but the first is predicted exactly once.

The text is cut into windows of `context` predictions that do not overlap. A token is predicted from
the tokens before it in its window, on average half a context. The rest of the text is predicted in
a last full window, whose earlier predictions were counted before and do not count again. Training
measures its validation loss in the same way, and so does the quality gate of quantised exports its
perplexity.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engines.base import State
from ..errors import InvalidInputError
from ..generation.log_loss import log_loss
from ..generation.prefill import logit_pieces, pieces_that_fit
from ..language_model import LanguageModel
from ..progress import Progress, silent
from ..proof.quality import LARGEST_LOSS
from ..quantity import quantity

__all__ = ["Evaluation", "evaluate", "evaluate_model"]

MOST_ROWS = 8  # most windows that are fed as one batch
LARGEST_BATCH = 2**23  # most logits of a batch: models with a large vocabulary get fewer rows

Ids = NDArray[np.int64]
# Takes windows [B, T]; yields pieces [B, size, V] of their logits, each with its first position.
LogitsOf = Callable[[Ids], Iterator[tuple[int, NDArray[np.float32]]]]


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes:
        loss: mean -log p(true next token), in nats per token.
        perplexity: exp(loss).
        bits_per_character: the loss of all tokens, in bits, over the number of their characters.
        tokens: how many tokens were predicted: all of the text but the first.
        characters: how many characters these tokens stand for.
        context: predictions in a full window.
    """

    loss: float
    perplexity: float
    bits_per_character: float
    tokens: int
    characters: int
    context: int


def evaluate_model(model: LanguageModel, ids: list[int], progress: Progress = silent) -> Evaluation:
    """Evaluate an opened bundle, as its engine runs it, on the text of `ids`.

    Raises:
        InvalidInputError: if the bundle has no tokenizer, or there is nothing to predict.
    """
    if model.tokenizer is None:
        raise InvalidInputError(
            f"{model.bundle.folder} has no tokenizer, and evaluation needs text"
        )
    states: dict[int, State] = {}

    def logits_of(windows: Ids) -> Iterator[tuple[int, NDArray[np.float32]]]:
        rows, length = windows.shape
        if rows not in states:
            states[rows] = model.engine.new_state(rows, model.context)
        sizes = pieces_that_fit(rows, length, model.vocab_size)
        return logit_pieces(states[rows], windows, sizes)

    characters = len(model.tokenizer.decode(ids[1:]))
    rows = LARGEST_BATCH // (model.context * model.vocab_size)
    rows = min(max(rows, 1), MOST_ROWS)
    return evaluate(logits_of, ids, characters, model.context, rows, progress)


def evaluate(
    logits_of: LogitsOf,
    ids: list[int],
    characters: int,
    context: int,
    rows: int = MOST_ROWS,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate any model on a text.

    Args:
        logits_of: the model; see `LogitsOf`. It gets windows of at most `context` tokens.
        ids: the text.
        characters: how many characters `ids[1:]` stand for.
        context: how many tokens the model sees at once.
        rows: windows to feed as one batch.
        progress: called after each batch with the tokens predicted so far, and all that will be.

    Raises:
        InvalidInputError: if there is nothing to predict.
    """
    array = np.array(ids, dtype=np.int64)
    count = len(array) - 1
    if count < 1:
        raise InvalidInputError(
            f"a text of {quantity(len(ids), 'token')} leaves nothing to predict"
        )
    total, done = 0.0, 0
    for starts, length in _batches(count, context, rows):
        chunk = array[starts[:, None] + np.arange(length + 1)]  # (B, length + 1)
        first = done - int(starts[0])  # predictions of the last window that were counted before
        for start, logits in logits_of(chunk[:, :-1]):
            targets = chunk[:, 1 + start : 1 + start + logits.shape[1]]
            flat = logits.reshape(-1, logits.shape[-1])  # (B * size, V)
            losses = log_loss(flat, targets.ravel()).reshape(targets.shape)  # (B, size)
            total += float(losses[:, max(0, first - start) :].sum())
        done += len(starts) * length - first
        progress("predicting tokens", done, count)
    loss = total / count
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, LARGEST_LOSS)),
        bits_per_character=total / math.log(2) / max(1, characters),
        tokens=count,
        characters=characters,
        context=context,
    )


def _batches(count: int, context: int, rows: int) -> Iterator[tuple[Ids, int]]:
    """Yield the first tokens [B] of windows over `count` predictions, and the windows' length."""
    whole = count // context
    for first in range(0, whole, rows):
        yield np.arange(first, min(first + rows, whole)) * context, context
    if count % context:
        length = min(count, context)
        yield np.array([count - length]), length
