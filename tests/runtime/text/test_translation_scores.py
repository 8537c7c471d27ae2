"""Exact match, BLEU and chrF of translations."""

import subprocess
import sys

import pytest

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.text.translation_scores import translation_scores

REFERENCES = ["the cat sat on the mat", "it is the first of may", "forty two"]


def test_translations_that_are_the_references_have_full_scores():
    scores = translation_scores(REFERENCES, REFERENCES)
    assert (scores.exact_match, scores.count) == (100, 3)
    assert scores.bleu == pytest.approx(100)
    assert scores.chrf == pytest.approx(100)


def test_bleu_is_that_of_its_definition():
    # 4-grams 2 of 3, trigrams 3 of 4, pairs 4 of 5, words 5 of 6, and no penalty for the length:
    # (2/3 * 3/4 * 4/5 * 5/6) ** (1/4)
    scores = translation_scores(["the cat sat on the hat"], ["the cat sat on the mat"])
    assert scores.bleu == pytest.approx(100 * (1 / 3) ** 0.25)
    assert scores.exact_match == 0
    assert 80 < scores.chrf < 100


def test_chrf_is_that_of_its_definition():
    # One and two characters: precision 3/3 and 2/2, recall 3/4 and 2/3; F with recall twice as
    # important, of the means over 1 to 6 characters that both texts have.
    scores = translation_scores(["abc"], ["abcd"])
    precision, recall = 1.0, (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert scores.chrf == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))


def test_each_translation_has_its_own_reference():
    scores = translation_scores([REFERENCES[1], REFERENCES[0], REFERENCES[2]], REFERENCES)
    assert scores.exact_match == pytest.approx(100 / 3)
    assert scores.bleu < 50


def test_signatures_say_how_the_scores_were_computed():
    scores = translation_scores(REFERENCES, REFERENCES)
    assert scores.bleu_signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores.chrf_signature.startswith(
        "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:"
    )


def test_texts_that_look_cut_into_words_bring_no_warning(caplog: pytest.LogCaptureFixture):
    texts = ["a cat ."] * 200
    assert translation_scores(texts, texts).exact_match == 100
    assert not caplog.records


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_what_cannot_be_compared_is_refused(hypotheses: list[str], references: list[str]):
    with pytest.raises(InvalidInputError, match=f"^{len(hypotheses)} translations cannot be"):
        translation_scores(hypotheses, references)


@pytest.mark.filterwarnings("error")
def test_without_sacrebleu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InvalidInputError, match=r'need sacrebleu: pip install "edgegpt-toolkit\['):
        translation_scores(["a"], ["a"])


def test_scores_need_no_torch():
    code = (
        "import sys\n"
        "from edgegpt.runtime.text.translation_scores import translation_scores\n"
        "assert 'sacrebleu' not in sys.modules\n"
        "translation_scores(['a'], ['a'])\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
