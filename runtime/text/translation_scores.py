"""How close translations are to given ones: exact matches, BLEU and chrF.

BLEU (Papineni et al. 2002) counts words and chrF (Popović 2015) characters that both have in
common, in sequences of some length. sacrebleu computes them (Post 2018), so that they can be
compared with those that others report; its signature says which variant they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InvalidInputError
from ..packages import pip_install

__all__ = ["TranslationScores", "translation_scores"]


@dataclass(frozen=True)
class TranslationScores:
    """Scores of a set of translations, each from 0 to 100.

    Attributes:
        exact_match: how many in a hundred are the reference, character by character.
        bleu: of the whole set, which is not the mean of single ones.
        chrf: of the whole set.
        bleu_signature: how sacrebleu computed it, for reports.
        chrf_signature: likewise.
        count: how many translations these are.
    """

    exact_match: float
    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    count: int


def translation_scores(hypotheses: Sequence[str], references: Sequence[str]) -> TranslationScores:
    """Compare each hypothesis with the reference at the same place.

    Raises:
        InvalidInputError: if sacrebleu is not installed, there are none, or not as many of both.
    """
    try:
        from sacrebleu import BLEU, CHRF  # noqa: PLC0415 - sacrebleu is an extra
    except ImportError as error:
        raise InvalidInputError(f"BLEU and chrF need sacrebleu: {pip_install('train')}") from error
    count = len(hypotheses)
    if count == 0 or count != len(references):
        raise InvalidInputError(
            f"{count} translations cannot be compared with {len(references)} references; each "
            f"needs one, and there must be some"
        )
    bleu, chrf = BLEU(force=True), CHRF()  # force: no warning about spaces before punctuation
    same = sum(ours == theirs for ours, theirs in zip(hypotheses, references, strict=True))
    return TranslationScores(
        exact_match=100 * same / count,
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        count=count,
    )
