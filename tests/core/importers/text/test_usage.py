"""How a Hugging Face folder says that a model is used: ends, padding, sampling, chat template."""

import pytest
from small_tokenizers import write_json
from transformers import GenerationConfig

from edgegpt.errors import CheckpointError
from edgegpt.importers.text import text_of_folder
from edgegpt.importers.text.generation import (
    NOT_DONE,
    NOT_DONE_IN_SAMPLING,
    USUAL_TEMPERATURE,
    USUAL_TOP_K,
)
from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.bundle.usage import Defaults, Usage

ROWS = 500


def usage_of(source, config=None, rows=ROWS) -> Usage:
    return text_of_folder(source, rows, config or {}).usage


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ({"eos_token_id": [7, 9, 7]}, {"eos_token_id": 5}, (7, 9)),
        ({"eos_token_id": 7}, {"eos_token_id": [5]}, (7,)),
        ({"eos_token_id": None}, {"eos_token_id": [5, 6]}, (5, 6)),
        ({}, {"eos_token_id": 5, "text_config": {"eos_token_id": 4}}, (5,)),
        ({}, {"text_config": {"eos_token_id": 4}}, (4,)),
        ({"eos_token_id": -1}, {"eos_token_id": None}, (3,)),
        ({}, {}, (3,)),
    ],
)
def test_a_text_ends_as_the_highest_ranking_file_says(folder, generation, config, ends):
    source = folder(
        "bytes", generation_config=generation, tokenizer_config={"eos_token": "#"}
    )  # an ordinary token, of the id 3
    assert usage_of(source, config).end_ids == ends


def test_ends_and_padding_beyond_the_embedding_are_dropped_and_named(folder):
    source = folder(generation_config={"eos_token_id": [3, 500, 501], "pad_token_id": 502})
    found = text_of_folder(source, ROWS, {})
    assert (found.usage.end_ids, found.usage.pad_id) == ((3,), None)
    assert found.notes[1:] == (
        "end ids beyond the embedding's 500 rows were dropped: 500, 501",
        "pad ids beyond the embedding's 500 rows were dropped: 502",
    )


@pytest.mark.parametrize("value", ["7", 7.0, True, [7, None], {"a": 1}, list(range(300))])
@pytest.mark.parametrize("key", ["eos_token_id", "pad_token_id"])
def test_ids_that_are_none_are_refused(folder, key, value):
    with pytest.raises(CheckpointError, match=f"{key} is .*; it must be a token id or several"):
        usage_of(folder(generation_config={key: value}))


def test_the_padding_id_comes_from_the_highest_ranking_file(folder):
    source = folder("bytes", tokenizer_config={"pad_token": "#"})
    assert usage_of(source).pad_id == 3
    assert usage_of(source, {"pad_token_id": 0}).pad_id == 0
    assert usage_of(source, {"pad_token_id": -1}).pad_id == 3
    write_json(source / "generation_config.json", {"pad_token_id": 8})
    assert usage_of(source, {"pad_token_id": 0}).pad_id == 8


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        ({}, Defaults()),
        ({"temperature": 0.6, "top_p": 0.9, "top_k": 20}, Defaults()),
        ({"do_sample": False, "temperature": 0.6}, Defaults()),
        ({"do_sample": False, "repetition_penalty": 1.1}, Defaults(repetition_penalty=1.1)),
        ({"do_sample": True}, Defaults(temperature=1.0, top_k=50)),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
            Defaults(temperature=0.6, top_k=20, top_p=0.95, min_p=0.05),
        ),
        (
            {"do_sample": True, "top_k": 0, "top_p": 1.0, "min_p": 0, "repetition_penalty": 1},
            Defaults(temperature=1.0),
        ),
        (
            {"do_sample": True, "temperature": None, "top_k": None},
            Defaults(temperature=1.0, top_k=50),
        ),
    ],
)
def test_sampling_is_a_default_only_if_the_source_samples(folder, generation, sampling):
    assert usage_of(folder(generation_config=generation)).sampling == sampling


def test_what_a_file_leaves_open_is_as_in_transformers():
    usual = GenerationConfig._get_default_generation_params()
    assert (usual["temperature"], usual["top_k"]) == (USUAL_TEMPERATURE, USUAL_TOP_K)
    assert (usual["top_p"], usual["repetition_penalty"], "min_p" in usual) == (1.0, 1.0, False)
    known = NOT_DONE | NOT_DONE_IN_SAMPLING
    for name in known.keys() & usual.keys():
        assert usual[name] is None or usual[name] in known[name]


def test_without_generation_config_json_the_settings_of_config_json_count(folder):
    config = {
        "do_sample": True,
        "top_k": 7,
        "guidance_scale": 2,
        "text_config": {"temperature": 0.5, "top_k": 3},
    }
    source = folder("bytes")
    found = text_of_folder(source, ROWS, config)
    assert found.usage.sampling == Defaults(temperature=0.5, top_k=7)
    assert "config.json, so that texts may differ: guidance_scale" in found.notes[0]
    with pytest.raises(CheckpointError, match=r"source/config\.json: top_k is -1"):
        text_of_folder(source, ROWS, config | {"top_k": -1})
    write_json(source / "generation_config.json", {})
    found = text_of_folder(source, ROWS, config)
    assert (found.usage.sampling, found.notes) == (Defaults(), ())


ASKED = {
    "begin_suppress_tokens": [1],
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2,
    "exponential_decay_length_penalty": [5, 1.1],
    "forced_bos_token_id": 0,
    "guidance_scale": 1.5,
    "min_length": 3,
    "penalty_alpha": 0.6,
    "sequence_bias": [[[1], 2.0]],
    "stop_strings": ["</s>"],
    "suppress_tokens": [1],
}
SEARCHED = {
    "bad_words_ids": [[3], [1], [4, 5]],
    "eos_token_id": 1,
    "forced_eos_token_id": 1,
    "length_penalty": 0.6,
    "early_stopping": "never",
    "max_new_tokens": 9,
    "min_new_tokens": 3,
    "no_repeat_ngram_size": 2,
    "num_beams": 4,
}
SAMPLED = {"epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4, "typical_p": 0.5, "top_h": 0.4}


def test_what_changes_the_text_and_is_not_done_is_noted_by_name(folder):
    source = folder("bytes", generation_config=ASKED | SAMPLED)
    (note,) = text_of_folder(source, ROWS, {}).notes
    place = source / "generation_config.json"
    assert note == f"left out of {place}, so that texts may differ: {', '.join(ASKED)}"
    write_json(place, ASKED | SAMPLED | {"do_sample": True})
    (note,) = text_of_folder(source, ROWS, {}).notes
    assert note.endswith(f": {', '.join(sorted([*ASKED, *SAMPLED]))}")


def test_settings_of_the_search_are_kept(folder):
    found = text_of_folder(folder("bytes", generation_config=SEARCHED), ROWS, {})
    assert found.usage.search == Search(
        num_beams=4,
        length_penalty=0.6,
        early_stopping="never",
        no_repeat_ngram_size=2,
        min_new_tokens=3,
        max_new_tokens=9,
        forced_eos=1,
        bad_words=((3,), (4, 5)),  # transformers drops those that are an end id
    )
    assert found.notes == ()


def test_ids_of_the_search_beyond_the_embedding_are_dropped(folder):
    beyond = {"bad_words_ids": [[ROWS, 1], [3]], "forced_eos_token_id": ROWS}
    found = text_of_folder(folder("bytes", generation_config=beyond), ROWS, {})
    assert found.usage.search == Search(bad_words=((3,),))
    assert str(ROWS) in found.notes[0]


def test_a_search_that_makes_no_sense_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"generation_config\.json: num_beams is 0"):
        usage_of(folder("bytes", generation_config={"num_beams": 0}))


def test_what_changes_no_text_is_not_noted(folder):
    neutral = GenerationConfig._get_default_generation_params() | {
        "penalty_alpha": 0.0,
        "min_new_tokens": None,
        "guidance_scale": 1,
        "suppress_tokens": [],
        "_from_model_config": True,
        "transformers_version": "5.0",
        "chat_format": "chatml",
    }
    source = folder("bytes")
    for do_sample in (True, False):
        write_json(source / "generation_config.json", neutral | {"do_sample": do_sample})
        assert text_of_folder(source, ROWS, {}).notes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("temperature", value) for value in (-0.1, "hot", True, 10**400, [])),
        *(("top_k", value) for value in (-1, 2.5, "many")),
        *(("top_p", value) for value in (0, 1.1)),
        *(("min_p", value) for value in (-0.1, 2)),
        *(("repetition_penalty", value) for value in (0, -1)),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(folder, key, value):
    source = folder(generation_config={"do_sample": True, key: value})
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} is "):
        usage_of(source)


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_temperature_that_is_no_number_is_refused(folder, number):
    source = folder()
    text = f'{{"do_sample": true, "temperature": {number}}}'
    (source / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="temperature is "):
        usage_of(source)


def test_special_tokens_are_kept_for_templates(folder):
    config = {
        "eos_token": {"content": "<|end|>"},
        "bos_token": None,
        "tokenizer_class": "GPT2Tokenizer",
    }
    source = folder("bytes", tokenizer_config=config)
    write_json(source / "special_tokens_map.json", {"bos_token": "<s>", "pad_token": "<pad>"})
    assert usage_of(source).special_tokens == {"eos_token": "<|end|>", "pad_token": "<pad>"}


def template_of(source):
    return text_of_folder(source, ROWS, {}).chat_template


def test_the_chat_template_comes_from_the_highest_ranking_file(folder):
    source = folder(chat_template={"chat_template": "low"})
    assert template_of(source) == "low"
    write_json(source / "tokenizer_config.json", {"chat_template": "middle"})
    assert template_of(source) == "middle"
    (source / "chat_template.jinja").write_text("high {{ messages }}")
    assert template_of(source) == "high {{ messages }}"


def test_of_several_chat_templates_the_default_is_taken_and_the_others_named(folder):
    named = [{"name": name, "template": name.upper()} for name in ("tool_use", "default", "rag")]
    found = text_of_folder(folder(tokenizer_config={"chat_template": named}), ROWS, {})
    assert found.chat_template == "DEFAULT"
    assert found.notes[1:] == ("chat templates left out: 'rag', 'tool_use'",)


def test_additional_chat_templates_are_named(folder):
    source = folder(tokenizer_config={"chat_template": "a"})
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "rag.jinja").write_text("b")
    found = text_of_folder(source, ROWS, {})
    assert (found.chat_template, found.notes[1:]) == ("a", ("chat templates left out: 'rag'",))


def test_without_a_chat_template_there_is_none(folder):
    assert (
        template_of(folder(tokenizer_config={"chat_template": [{"name": "rag", "template": "x"}]}))
        is None
    )


@pytest.mark.parametrize("template", [7, ["a"], [{"template": "a"}], "x" * 300_000])
def test_a_chat_template_that_is_none_or_too_long_is_refused(folder, template):
    with pytest.raises(CheckpointError, match="chat template"):
        template_of(folder(tokenizer_config={"chat_template": template}))


def test_a_chat_template_file_that_is_too_long_is_refused(folder):
    source = folder()
    (source / "chat_template.jinja").write_text("x" * 300_000)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja has 300,000 bytes"):
        template_of(source)
