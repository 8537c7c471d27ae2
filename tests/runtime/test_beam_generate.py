"""`LanguageModel.generate` with beams and edits: against transformers, and what it refuses."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny_checkpoints import LIMIT, SIZES, imported, save_tiny
from transformers import LlamaConfig

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import InvalidInputError
from edgegpt.export import export_bundle
from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.bundle.usage import Defaults, Usage

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

END = 2
PROMPTS = [[5, 17, 33], [8], [60, 9, 9, 41, 7, 12]]
COUNT = 16
TEXT = "The wind"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A tiny Llama as transformers has it, and the bundle that was made of it."""
    folder = tmp_path_factory.mktemp("llama")
    theirs = save_tiny(LlamaConfig(**SIZES), folder / "source")
    imported(folder / "source", folder / "checkpoint")
    export_bundle(folder / "checkpoint", folder / "bundle")
    with edgegpt.load(folder / "bundle", threads=1) as ours:
        yield theirs, ours


@pytest.fixture(scope="module")
def model(small_bundle):
    with edgegpt.load(small_bundle, threads=1) as opened:
        yield opened


@torch.no_grad()
def expected(theirs, prompt, **settings):
    """Return transformers' texts and scores, and its largest logit."""
    ids = torch.tensor([prompt])
    found = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=COUNT,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    texts = []
    for text in found.sequences[:, len(prompt) :].tolist():
        ended = text.index(END) + 1 if END in text else len(text)
        texts.append(text[:ended])
    return texts, found.sequences_scores.tolist(), float(theirs(ids).logits.abs().max())


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 4, "length_penalty": -1.0, "early_stopping": "never"},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
        {"num_beams": 5, "num_return_sequences": 3, "repetition_penalty": 1.3},
    ],
)
def test_a_bundles_beams_are_those_of_transformers(both, settings):
    theirs, ours = both
    results = ours.generate(PROMPTS, max_new_tokens=COUNT, end_ids=END, temperature=0, **settings)
    assert sum(result.first_near_tie is not None for result in results) <= 1
    for prompt, result in zip(PROMPTS, results, strict=True):
        if result.first_near_tie is not None:  # transformers may find other texts
            continue
        texts, scores, largest = expected(theirs, prompt, **settings)
        assert [one.token_ids for one in result.hypotheses] == texts
        errors = np.subtract([one.score for one in result.hypotheses], scores)
        # Dividing the sum by COUNT ** -1, its error grows with the number of tokens, twice.
        growth = COUNT ** max(0.0, 1.0 - settings.get("length_penalty", 1.0))
        assert np.abs(errors).max() <= LIMIT * largest * growth
        assert result == replace(result.hypotheses[0], hypotheses=result.hypotheses)


def untimed(result):
    return asdict(result) | {"timings": 0, "seed": 0, "hypotheses": 0}


def test_a_prompt_gets_the_same_texts_alone_and_in_a_batch(both):
    _, ours = both
    settings = {"max_new_tokens": COUNT, "num_beams": 3, "end_ids": END}
    for prompt, together in zip(PROMPTS, ours.generate(PROMPTS, **settings), strict=True):
        alone = ours.generate(prompt, **settings)
        assert alone.token_ids == together.token_ids
        assert alone.score == pytest.approx(together.score, abs=1e-4)


def test_one_beam_is_greedy_and_has_no_score(model):
    greedy = model.generate(TEXT, max_new_tokens=9)
    assert untimed(model.generate(TEXT, max_new_tokens=9, num_beams=1)) == untimed(greedy)
    assert (greedy.score, greedy.hypotheses) == (None, ())


def test_the_score_is_that_of_the_text(model):
    """The sum of the log-probabilities that `forward` gives, divided by the number of tokens."""
    ids = model.encode_prompt(TEXT)
    result = model.generate(TEXT, max_new_tokens=9, num_beams=3)
    logits = model.forward([ids + result.token_ids])[0, len(ids) - 1 : -1].astype(np.float64)
    chances = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total = sum(row[token] for row, token in zip(chances, result.token_ids, strict=True))
    assert result.score == pytest.approx(total / 9, abs=1e-5)
    assert result.text == model.tokenizer.decode(result.token_ids)
    assert result.finish_reason == "length"


def test_a_stop_string_ends_a_beam_and_is_not_in_its_text(model):
    settings = {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3}
    whole = model.generate(TEXT, **settings)
    stop = whole.text[3:5]
    found = model.generate([TEXT, "A"], stop=[stop, "\0"], **settings)[0]
    ended = [one for one in found.hypotheses if one.finish_reason == "stop"]
    assert ended
    for one in ended:
        assert model.tokenizer.decode(one.token_ids) == one.text + stop
        ids = model.encode_prompt(TEXT)
        assert one.score == pytest.approx(np.mean(model.score(ids, one.token_ids)), abs=1e-5)
    for one in found.hypotheses:
        assert stop not in one.text
        if one.finish_reason == "length":
            assert len(one.token_ids) == 12
    assert model.generate(TEXT, stop="\0", **settings).token_ids == whole.token_ids


def test_beams_end_where_the_context_does(model):
    result = model.generate(TEXT, max_new_tokens=300, num_beams=3, num_return_sequences=2)
    assert [one.finish_reason for one in result.hypotheses] == ["context", "context"]
    assert len(model.encode_prompt(TEXT)) + len(result.token_ids) == model.context + 1


def test_no_new_token_is_an_empty_text(model):
    result = model.generate(TEXT, max_new_tokens=0, num_beams=3)
    assert (result.text, result.token_ids, result.score) == ("", [], 0.0)


def test_edits_hold_without_beams_in_streams_and_drafts_too(model):
    settings = {"max_new_tokens": 20, "no_repeat_ngram_size": 1, "forced_bos": 4}
    result = model.generate(TEXT, **settings)
    whole = model.encode_prompt(TEXT) + result.token_ids
    assert result.token_ids[0] == 4
    assert len(set(result.token_ids[1:])) == 19
    assert not set(whole[:8]) & set(result.token_ids[1:])
    assert "".join(model.stream(TEXT, **settings)) == result.text
    assert model.generate(TEXT, speculate=5, **settings).token_ids == result.token_ids
    end = model.generate(TEXT, max_new_tokens=20).token_ids[0]
    later = model.generate(TEXT, max_new_tokens=20, end_ids=end, min_new_tokens=6).token_ids
    assert end not in later[:6]


@pytest.fixture
def searching(altered_bundle):
    """A bundle that recommends a search."""
    search = Search(num_beams=3, length_penalty=0.5, max_new_tokens=6, bad_words=((24,),))
    with edgegpt.load(altered_bundle(usage=Usage(search=search)), threads=1) as opened:
        yield opened


def test_the_recommended_search_holds_unless_the_caller_says_otherwise(searching, model):
    found = searching.generate(TEXT)
    assert len(found.token_ids) == 6
    assert 24 not in found.token_ids
    assert 24 in model.generate(TEXT, max_new_tokens=6, num_beams=3).token_ids
    other = searching.generate(TEXT, length_penalty=1.0)
    assert other.score == pytest.approx(found.score * 6**0.5 / 6, rel=1e-6)
    assert searching.generate(TEXT, num_beams=1).score is None
    stream = searching.stream(TEXT, max_new_tokens=9)  # token by token
    assert "".join(stream) == searching.generate(TEXT, num_beams=1, max_new_tokens=9).text


def test_inspect_shows_the_recommended_search(run, altered_bundle, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    search = Search(num_beams=3, early_stopping=True, bad_words=((24,), (2, 3)))
    _, out, _ = run("inspect", altered_bundle(usage=Usage(search=search)))
    assert "num_beams 3, early_stopping True, bad_words [[24], [2, 3]]" in out


def test_a_recommended_search_does_not_go_with_recommended_sampling(altered_bundle):
    usage = Usage(search=Search(num_beams=3), sampling=Defaults(temperature=0.8))
    with edgegpt.load(altered_bundle(usage=usage), threads=1) as opened:
        with pytest.raises(InvalidInputError, match="temperature above 0 does not go with"):
            opened.generate(TEXT)
        assert opened.generate(TEXT, num_beams=3, temperature=0).score is not None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be an int of 1 or more"),
        ({"num_beams": 2.0}, "num_beams is 2.0"),
        ({"num_beams": 2000}, "num_beams is 2000; there may be 1024"),
        ({"num_beams": 35}, "num_beams is 35, and a vocabulary of 34"),
        ({"num_beams": 33, "end_ids": [1, 2]}, "with 2 end ids has only 32 first tokens"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"num_return_sequences": 2}, "from 1 to num_beams, which is 1"),
        ({"num_beams": 2, "num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature above 0 does not go"),
        ({"num_beams": 2, "speculate": 3}, "speculate does not go"),
        ({"num_beams": 2, "overflow": "slide"}, 'overflow="slide" does not go'),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": "long"}, "length_penalty is 'long'"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'"),
        ({"early_stopping": 1}, "early_stopping is 1"),
        ({"early_stopping": np.array([1, 2])}, "early_stopping is array"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"min_new_tokens": True}, "min_new_tokens is True"),
        ({"forced_bos": 34}, "forced_bos is 34, which is not in the vocabulary of 34"),
        ({"no_repeat_ngram_size": 1}, "forbid every id as new token 26"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, settings, told):
    with pytest.raises(InvalidInputError, match=told):
        model.generate(TEXT, **settings)


def test_a_search_is_not_streamed_and_does_not_outgrow_the_context(model):
    for beams in (3, np.int64(3)):
        with pytest.raises(InvalidInputError, match="3 beams cannot be streamed"):
            model.stream(TEXT, num_beams=beams)
    for beams in (0, 1.5, "many"):
        with pytest.raises(InvalidInputError, match=f"num_beams is {beams!r}; it must be an int"):
            model.stream(TEXT, num_beams=beams)
    with pytest.raises(InvalidInputError, match=r"40 tokens and the context 32; shorten it$"):
        model.generate([1] * 40, num_beams=3)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and returns its code, output and errors."""

    def invoke(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return invoke


def test_the_command_prints_the_best_texts_and_their_scores(run, small_bundle, model):
    call = ["generate", small_bundle, "--prompt", TEXT, "--max-new-tokens", "5"]
    code, out, _ = run(*call, "--beams", "3", "--n-best", "2", "--length-penalty", "0")
    expected = model.generate(
        TEXT, max_new_tokens=5, num_beams=3, num_return_sequences=2, length_penalty=0.0
    )
    lines = [f"{one.score:.4f} {one.text}" for one in expected.hypotheses]
    assert (code, out) == (0, "\n".join(lines) + "\n")
    code, out, _ = run(*call, "--num-beams", "3", "--early-stopping", "never", "--json")
    found = json.loads(out)
    assert found["score"] == found["hypotheses"][0]["score"] < 0
    code, out, err = run(*call, "--n-best", "2")
    assert (code, out) == (1, "")
    assert "--n-best is 2; it must be a whole number from 1 to --num-beams, which is 1" in err
