"""Texts that an encoder-decoder makes from sources: generate, stream, encode, score, and beams."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pair_checkpoints import PAIRS, USAGE, write_pair_checkpoint
from seq2seq_models import VARIANTS, seq2seq

import edgegpt
from edgegpt.checkpoint import load_checkpoint, save_config
from edgegpt.cli import cli
from edgegpt.errors import InvalidInputError
from edgegpt.export import export_bundle
from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.bundle.usage import SourceUsage, Usage

SOURCES = [source for source, _ in PAIRS[:5]]
FRENCH, GERMAN = 7, 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    model = seq2seq(VARIANTS["paper"])
    path = write_pair_checkpoint(folder / "ckpt", model)
    source = SourceUsage((3, FRENCH), (2,), {"fr": FRENCH, "de": GERMAN})
    save_config(path, model.config, Usage((1,), (2,), 0, source=source))
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    export_bundle(checkpoint, checkpoint.parent / "bundle")
    return checkpoint.parent / "bundle"


@pytest.fixture(scope="module")
def lm(bundle: Path):
    with edgegpt.load(bundle) as model:
        yield model


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Seq2Seq:
    return load_checkpoint(checkpoint).model


@torch.no_grad()
def plain(model: Seq2Seq, source: list[int], target: list[int]) -> torch.Tensor:
    """Return the log-probabilities [T, V] after each token of a target, on the plain path."""
    lengths = torch.tensor([len(source)])
    logits = model(torch.tensor([source]), lengths, torch.tensor([target]))
    return logits[0].log_softmax(-1)


def source_ids(lm, text: str, language: int = FRENCH) -> list[int]:
    return [3, language, *lm.tokenizer.encode(text), 2]


def test_a_text_is_what_the_model_makes_of_its_source_token_by_token(lm, model: Seq2Seq) -> None:
    for text, result in zip(SOURCES, lm.generate(SOURCES, max_new_tokens=12), strict=True):
        ids = [1]
        while len(ids) <= 12 and ids[-1] != 2:
            ids.append(int(plain(model, source_ids(lm, text), ids)[-1].argmax()))
        assert result.token_ids == ids[1:]
        assert result.finish_reason == ("eos" if ids[-1] == 2 else "length")


def test_sources_of_a_batch_do_not_touch_each_other(lm) -> None:
    together = lm.generate(SOURCES, max_new_tokens=9)
    assert [one.token_ids for one in together] == [
        lm.generate(source, max_new_tokens=9).token_ids for source in SOURCES
    ]


def test_text_gets_what_belongs_around_it_and_ids_are_taken_as_they_are(lm) -> None:
    ids = source_ids(lm, "pack my box")
    assert lm.encode_prompt("pack my box") == ids
    assert lm.encode_prompt(ids) == ids
    assert lm.generate(ids, max_new_tokens=5).token_ids == (
        lm.generate("pack my box", max_new_tokens=5).token_ids
    )


def test_pieces_of_a_stream_are_the_text(lm) -> None:
    stream = lm.stream(SOURCES[1], max_new_tokens=9)
    assert "".join(stream) == lm.generate(SOURCES[1], max_new_tokens=9).text


def test_sampling_depends_on_the_seed_and_the_source_alone(lm) -> None:
    first = lm.generate([SOURCES[1]] * 2 + [SOURCES[2]], temperature=1.0, seed=4, max_new_tokens=9)
    alone = lm.generate(SOURCES[2], temperature=1.0, seed=4, max_new_tokens=9)
    assert first[0].token_ids == first[1].token_ids
    assert first[2].token_ids == alone.token_ids
    other = lm.generate(SOURCES[2], temperature=1.0, seed=5, max_new_tokens=9)
    assert other.token_ids != alone.token_ids


def test_scores_are_the_log_probabilities_of_the_targets_tokens(lm, model: Seq2Seq) -> None:
    targets = [[5, 6, 7, 2], [9], [5, 30, 2]]
    found = lm.score(SOURCES[:3], targets)
    for text, target, scores in zip(SOURCES[:3], targets, found, strict=True):
        logs = plain(model, source_ids(lm, text), [1, *target[:-1]])
        expected = logs[torch.arange(len(target)), torch.tensor(target)]
        assert scores == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_target_of_text_ends_with_the_end_id(lm) -> None:
    ids = [*lm.tokenizer.encode("five dozen"), 2]
    assert lm.score(SOURCES[0], "five dozen") == lm.score(SOURCES[0], ids)


def test_encoded_sources_serve_for_any_number_of_texts(lm, monkeypatch) -> None:
    encoded = lm.encode(SOURCES[0])
    monkeypatch.setattr(lm.engine, "encode", None)
    several = lm.score(encoded, [[5, 6], [7, 8, 9]])
    assert [len(one) for one in several] == [2, 3]
    assert lm.score(encoded, [5, 6]) == several[0]
    assert lm.generate(encoded, max_new_tokens=4, num_beams=3).score is not None
    monkeypatch.undo()
    assert several == lm.score(SOURCES[0], [[5, 6], [7, 8, 9]])


def test_encoded_lists_give_lists(lm) -> None:
    encoded = lm.encode(SOURCES[:2])
    assert [one.token_ids for one in lm.generate(encoded, max_new_tokens=4)] == [
        one.token_ids for one in lm.generate(SOURCES[:2], max_new_tokens=4)
    ]
    with pytest.raises(InvalidInputError, match="2 prompts cannot be scored with 1 target"):
        lm.score(encoded, [5, 6])


def test_a_search_finds_texts_whose_score_the_model_gives_them(lm, model: Seq2Seq) -> None:
    for text in SOURCES:
        result = lm.generate(text, num_beams=4, num_return_sequences=4, max_new_tokens=8)
        assert [one.score for one in result.hypotheses] == sorted(
            (one.score for one in result.hypotheses), reverse=True
        )
        for one in result.hypotheses:
            logs = plain(model, source_ids(lm, text), [1, *one.token_ids[:-1]])
            total = logs[torch.arange(len(one.token_ids)), torch.tensor(one.token_ids)].sum()
            assert one.score == pytest.approx(float(total) / len(one.token_ids), abs=1e-4)


def test_searches_of_a_batch_do_not_touch_each_other(lm) -> None:
    together = lm.generate(SOURCES, num_beams=3, max_new_tokens=8)
    for source, result in zip(SOURCES, together, strict=True):
        alone = lm.generate(source, num_beams=3, max_new_tokens=8)
        assert (result.token_ids, result.score) == (alone.token_ids, pytest.approx(alone.score))


def test_a_language_is_the_first_new_token(lm) -> None:
    for beams in (1, 3):
        result = lm.generate(SOURCES[0], target_language="de", num_beams=beams, max_new_tokens=4)
        assert result.token_ids[0] == GERMAN


def test_the_language_of_a_source_takes_the_place_of_the_bundles_own(lm) -> None:
    text, settings = "pack my box", {"max_new_tokens": 5}
    ids = source_ids(lm, text, GERMAN)
    assert ids != lm.encode_prompt(text)
    assert lm.encode(text, source_language="de").ids == [ids]
    assert lm.encode([text, "my"], source_language="fr").ids[0] == lm.encode_prompt(text)
    found = lm.generate([text], source_language="de", num_beams=2, **settings)[0]
    assert found.score == lm.generate(ids, num_beams=2, **settings).score
    assert found.score != lm.generate(text, num_beams=2, **settings).score
    stream = lm.stream(text, source_language="de", **settings)
    assert "".join(stream) == lm.generate(ids, **settings).text
    assert lm.score(text, [5, 6], source_language="de") == lm.score(ids, [5, 6])


def test_commands_have_the_languages_of_both_sides(lm, bundle: Path, tmp_path: Path) -> None:
    def printed(*arguments: object) -> str:
        result = CliRunner().invoke(cli, [*map(str, arguments), "--source-language", "de"])
        assert result.exit_code == 0, result.output
        return result.stdout

    ids, settings = source_ids(lm, "pack my box", GERMAN), {"max_new_tokens": 6}
    expected = lm.generate(ids, target_language="fr", **settings).text
    (tmp_path / "in.txt").write_text("pack my box\n")
    options = ("--target-language", "fr", "--max-new-tokens", 6)
    assert printed("translate", bundle, tmp_path / "in.txt", *options) == f"{expected}\n"
    found = printed("generate", bundle, "--source", "pack my box", "--json", *options)
    assert json.loads(found)["text"] == expected
    (tmp_path / "pairs.tsv").write_text("pack my box\tfive\n")
    found = printed("eval", bundle, "--data", tmp_path / "pairs.tsv", "--json", *options[:2])
    scores = lm.score(ids, [FRENCH, *lm.tokenizer.encode("five"), 2])
    assert json.loads(found)["loss"] == pytest.approx(-np.mean(scores))


def test_inspect_shows_what_is_around_a_source(bundle: Path) -> None:
    found = CliRunner().invoke(cli, ["inspect", str(bundle)], env={"COLUMNS": "140"})
    assert "begin with 3, 7, end with 2, languages de, fr" in found.stdout


def test_a_target_of_text_begins_with_its_language(lm) -> None:
    ids = [GERMAN, *lm.tokenizer.encode("five dozen"), 2]
    assert lm.score(SOURCES[0], "five dozen", target_language="de") == lm.score(SOURCES[0], ids)


def test_a_target_of_text_begins_with_the_id_that_the_bundle_forces(bundle: Path) -> None:
    with edgegpt.load(bundle) as model:
        usage = replace(model.usage, search=Search(forced_bos=9))
        model._begin.prompts.usage = usage
        ids = [*model.tokenizer.encode("five dozen"), 2]
        assert model.score(SOURCES[0], "five dozen") == model.score(SOURCES[0], [9, *ids])
        assert model.score(SOURCES[0], "five dozen", target_language="de") == (
            model.score(SOURCES[0], [GERMAN, *ids])
        )
        assert model.generate(SOURCES[0], max_new_tokens=2).token_ids[0] == 9


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda lm: lm.generate(""), "the source is empty"),
        (lambda lm: lm.generate(" "), "the source is empty"),
        (lambda lm: lm.generate([[]]), "the source is empty"),
        (lambda lm: lm.generate([41]), "id 41 is not in the sources' vocabulary of 41"),
        (lambda lm: lm.generate("pack " * 30), "and the model reads 24 at most"),
        (lambda lm: lm.generate("Ω"), "the character 'Ω'"),
        (
            lambda lm: lm.generate("my", target_language="es"),
            "target_language is 'es', which is no language of the model; it knows de, fr$",
        ),
        (
            lambda lm: lm.stream("my", source_language=["fr"]),
            r"source_language is \['fr'\], which is no language of the model; it knows de, fr$",
        ),
        (lambda lm: lm.encode(["my", [5]], source_language="fr"), "source_language is for sources"),
        (lambda lm: lm.score("my", [5], target_language="fr"), "target_language is for targets of"),
        (
            lambda lm: lm.generate(lm.encode("my"), source_language="fr"),
            "source_language is for encode: these sources were read",
        ),
        (
            lambda lm: lm.generate("my", target_language="de", forced_bos=3),
            "forced_bos and target_language are both the first new token",
        ),
        (lambda lm: lm.generate("my", speculate=2), "speculate is for models without an encoder"),
        (lambda lm: lm.generate("my", overflow="stop"), "overflow is for models without an enc"),
        (lambda lm: lm.forward([[1]]), "forward is for models without an encoder"),
        (lambda lm: lm.score("my", []), "the target is empty"),
        (lambda lm: lm.score("my", [5] * 25), "do not fit the context of 24"),
        (lambda lm: lm.encode([]), "the source is empty|there is no source"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(lm, call, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        call(lm)


def test_sources_of_another_model_are_refused(lm, bundle: Path) -> None:
    with edgegpt.load(bundle) as other, pytest.raises(InvalidInputError, match="another model"):
        lm.generate(other.encode("my"))


def test_models_without_an_encoder_score_and_refuse_sources(small_bundle: Path) -> None:
    with edgegpt.load(small_bundle) as gpt:
        ids = gpt.tokenizer.encode("The wind")
        logits = gpt.forward([ids])[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found = gpt.score("The w", "ind")
        assert found == pytest.approx([logs[4 + i, ids[5 + i]] for i in range(3)], abs=1e-4)
        with pytest.raises(InvalidInputError, match="has no encoder: it takes prompts"):
            gpt.encode("The")
        with pytest.raises(InvalidInputError, match="target_language is for models with an enc"):
            gpt.generate("The", target_language="fr")
        with pytest.raises(InvalidInputError, match="source_language is for models with an enc"):
            gpt.generate("The", source_language="fr")


def test_usage_tells_where_texts_begin() -> None:
    assert USAGE.source is not None
    assert USAGE.source.around([5, 6]) == [5, 6, 2]
    assert SourceUsage((3,), (2, 4)).around([5]) == [3, 5, 2, 4]


def test_a_language_is_put_where_the_model_has_its_own_or_last() -> None:
    codes = {"fr": 7, "de": 8}
    assert SourceUsage((3, 7), (2,), codes).around([5, 7], 8) == [3, 8, 5, 7, 2]
    assert SourceUsage((), (2, 7), codes).around([5], 8) == [5, 2, 8]
    assert SourceUsage((), (2,), codes).around([5], 8) == [5, 2, 8]


def test_models_without_codes_refuse_them_by_name(bundle: Path) -> None:
    with edgegpt.load(bundle) as model:
        model._begin.sources.usage = SourceUsage((), (2,))
        for name in ("source_language", "target_language"):
            told = f"^{name} is for models with codes of languages; leave it out$"
            with pytest.raises(InvalidInputError, match=told):
                model.generate("my", **{name: "fr"})


def test_an_unknown_code_is_answered_with_the_nearest_ones(bundle: Path) -> None:
    codes = ("fra_Latn", "fur_Latn", "deu_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "npi_Deva")
    known = dict.fromkeys((*codes, "rus_Cyrl", "ukr_Cyrl", "kor_Hang", "arb_Arab"), 7)
    with edgegpt.load(bundle) as model:
        model._begin.sources.usage = SourceUsage((7,), (2,), known)
        with pytest.raises(
            InvalidInputError, match="of its 11, the nearest are fur_Latn, fra_Latn"
        ):
            model.encode("my", source_language="FR")
        with pytest.raises(InvalidInputError, match="nearest are zho_Hans, zho_Hant"):
            model.encode("my", source_language="zh_Hans")
        with pytest.raises(InvalidInputError, match="it knows 11, such as arb_Arab, deu_Latn, "):
            model.encode("my", source_language="??")
