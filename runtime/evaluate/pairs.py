"""How well an encoder-decoder translates pairs: its loss on the targets, and its translations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError
from ..generation.in_batches import in_batches
from ..language_model import LanguageModel
from ..progress import Progress, silent
from ..text.pairs import Pair
from ..text.translation_scores import translation_scores

__all__ = ["PairEvaluation", "evaluate_pairs"]

ROWS = 16  # pairs in a batch


@dataclass(frozen=True)
class PairEvaluation:
    """How well a model makes the targets of pairs from their sources.

    Attributes:
        loss: mean -log p(token) of the targets and their ends, in nats, each token after the
            right ones before it; a first token that `generate` forces counts, too.
        exact_match: how many translations in a hundred are the target, character by character.
        bleu: of all translations, from 0 to 100.
        chrf: likewise.
        bleu_signature: how sacrebleu computed it.
        chrf_signature: likewise.
        pairs: how many pairs there were.
        tokens: how many tokens were predicted.
    """

    loss: float
    exact_match: float
    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    pairs: int
    tokens: int


def evaluate_pairs(
    model: LanguageModel,
    pairs: Sequence[Pair],
    settings: dict[str, Any],
    progress: Progress = silent,
) -> PairEvaluation:
    """Evaluate an opened bundle of an encoder-decoder.

    Args:
        model: the bundle.
        pairs: sources and targets, at least one.
        settings: arguments of `generate` by name.
        progress: called after each batch.

    Raises:
        InvalidInputError: if there is no pair, a pair does not fit the model, or sacrebleu is not
            installed.
    """
    if not pairs:
        raise InvalidInputError("there is no pair to evaluate")
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    translation_scores(["0"], ["0"])  # refused before the work, where there is no sacrebleu
    losses: list[float] = []
    languages = {name: settings.get(name) for name in ("source_language", "target_language")}
    for first in range(0, len(pairs), ROWS):
        part = slice(first, first + ROWS)
        for scores in model.score(sources[part], targets[part], **languages):
            assert isinstance(scores, list), "several targets give a list of lists"
            losses += scores
        progress("scoring targets", first, len(pairs))
    found = in_batches(
        lambda some: model.generate(some, **settings),
        sources,
        ROWS,
        lambda done: progress("translating sources", done, len(pairs)),
    )
    scored = translation_scores([result.text or "" for result in found], targets)
    return PairEvaluation(
        loss=-sum(losses) / len(losses),
        exact_match=scored.exact_match,
        bleu=scored.bleu,
        chrf=scored.chrf,
        bleu_signature=scored.bleu_signature,
        chrf_signature=scored.chrf_signature,
        pairs=scored.count,
        tokens=len(losses),
    )
