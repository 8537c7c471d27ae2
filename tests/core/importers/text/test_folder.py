"""The tokenizer of a Hugging Face folder: from which files, and equal to transformers'."""

import json
import os

import pytest
from small_tokenizers import HARD_TEXTS, sentence_piece, write_json
from tokenizers import AddedToken, Tokenizer, models, processors

from edgegpt import user_files
from edgegpt.errors import CheckpointError
from edgegpt.importers.text import text_of_folder
from edgegpt.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

ROWS = 2000
CHAT = ["<|im_start|>user\nhi <|im_end|>\n<|endoftext|>x", " <|im_end|> y", "a</s> b<s>c", "[PAD]"]
QWEN = {
    "tokenizer_class": "Qwen2Tokenizer",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "added_tokens_decoder": {
        "400": {"content": "<|im_start|>", "special": True, "normalized": False, "rstrip": True},
        "401": {"content": "<|im_end|>", "special": True, "normalized": False},
        "402": {"content": "<think>", "special": False, "normalized": False},
    },
}


def auto_tokenizer(folder, model_type):
    """Return transformers' own reading of the folder."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    from transformers import AutoTokenizer

    write_json(folder / "config.json", {"model_type": model_type})
    return AutoTokenizer.from_pretrained(folder)


def small(**parts) -> Tokenizer:
    """Return a tokenizer of a and b with the special tokens <s> and <x>."""
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<s>": 2}, []))
    tokenizer.add_special_tokens(["<s>", "<x>"])
    for name, value in parts.items():
        setattr(tokenizer, name, value)
    return tokenizer


def written(folder, tokenizer: Tokenizer) -> str:
    text = json.dumps(json.loads(tokenizer.to_str()), indent=3)
    (folder / "tokenizer.json").write_text(text)
    return text


@pytest.mark.parametrize(
    ("model_type", "config", "more"),
    [
        ("gpt2", None, {}),
        ("gpt2", {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}, {}),
        (
            "opt",
            {
                "tokenizer_class": "GPT2Tokenizer",
                "add_bos_token": True,
                "bos_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
                "pad_token": "[PAD]",
            },
            {},
        ),
        (
            "gpt2",
            {"tokenizer_class": "GPT2Tokenizer"},
            {
                "added_tokens": {"<|im_end|>": 401, "<|im_start|>": 400},
                "special_tokens_map": {
                    "eos_token": "<|im_end|>",
                    "additional_special_tokens": ["<|im_start|>"],
                },
            },
        ),
        ("qwen2", QWEN, {}),
        ("gpt_neox", {"tokenizer_class": "GPTNeoXTokenizer"}, {}),
    ],
)
def test_vocab_and_merges_give_the_ids_of_transformers(folder, model_type, config, more):
    documents = more if config is None else {"tokenizer_config": config, **more}
    source = folder("bytes", **documents)
    found = text_of_folder(source, ROWS, {})
    tokenizer = RuntimeTokenizer(found.tokenizer_json)
    theirs = auto_tokenizer(source, model_type)
    for text in [*HARD_TEXTS, *CHAT]:
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False).input_ids
    ids = theirs("x").input_ids
    assert (*found.usage.start_ids, *tokenizer.encode("x")) == tuple(ids)
    assert found.usage.end_ids == (theirs.eos_token_id,)
    named = config is not None and "pad_token" in config
    assert found.usage.pad_id == (theirs.pad_token_id if named else None)


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_sentence_piece_model_gives_the_ids_of_transformers(folder, add_bos):
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": add_bos, "legacy": True}
    added = {"<|im_start|>": 600, "<|im_end|>": 601}
    source = folder("pieces", tokenizer_config=config, added_tokens=added)
    found = text_of_folder(source, ROWS, {})
    tokenizer = RuntimeTokenizer(found.tokenizer_json)
    theirs = auto_tokenizer(source, "mistral")
    # transformers 5 adds user-defined pieces in one more way; sentencepiece decides on them.
    for text in [*HARD_TEXTS, *CHAT]:
        if "<sep>" not in text and "«q»" not in text:
            assert tokenizer.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert (*found.usage.start_ids, *tokenizer.encode("x")) == tuple(theirs("x").input_ids)
    assert found.usage.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "LlamaTokenizer"}])
def test_a_sentence_piece_model_begins_with_bos_unless_told_otherwise(folder, config):
    # transformers 4, for which these folders were written; transformers 5 leaves BOS out.
    assert text_of_folder(folder("pieces", tokenizer_config=config), ROWS, {}).usage.start_ids == (
        1,
    )


def test_a_tokenizer_json_is_taken_to_the_byte(folder):
    source = folder("bytes")
    text = written(source, small())
    assert text_of_folder(source, 4, {}).tokenizer_json == text


def test_vocab_and_merges_are_preferred_to_a_sentence_piece_model(folder):
    source = folder("bytes")
    sentence_piece(source / "tokenizer.model", "bpe")
    assert '"<|endoftext|>"' in (text_of_folder(source, ROWS, {}).tokenizer_json or "")


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model"])
def test_other_names_of_sentence_piece_models_are_known(folder, name):
    source = folder("pieces")
    (source / "tokenizer.model").rename(source / name)
    assert text_of_folder(source, ROWS, {}).tokenizer_json is not None


def test_pieces_that_their_class_numbers_otherwise_give_a_model_of_ids(folder):
    source = folder("pieces", tokenizer_config={"tokenizer_class": "XGLMTokenizer"})
    (source / "tokenizer.model").rename(source / "sentencepiece.bpe.model")
    found = text_of_folder(source, ROWS, {})
    assert found.tokenizer_json is None
    assert "sentencepiece.bpe.model numbers its pieces otherwise" in found.notes[0]


def test_a_folder_without_a_tokenizer_gives_a_model_of_ids(folder):
    found = text_of_folder(folder(generation_config={"eos_token_id": 7}), 10, {})
    assert found.tokenizer_json is None
    assert found.usage.end_ids == (7,)
    assert "has no tokenizer: the model works with token ids only" in found.notes[0]


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "vocab.txt", "qwen.tiktoken"])
def test_a_tokenizer_of_another_kind_is_named_and_gives_a_model_of_ids(folder, name):
    source = folder()
    (source / name).write_text("IQ== 0\nIg== 1\n")
    found = text_of_folder(source, 10, {})
    assert found.tokenizer_json is None
    assert f"{name} is a tokenizer of a kind that is not supported" in found.notes[0]


def test_an_unknown_class_of_tokenizer_is_named_and_gives_a_model_of_ids(folder):
    source = folder("bytes", tokenizer_config={"tokenizer_class": "OddTokenizer"})
    found = text_of_folder(source, ROWS, {})
    assert found.tokenizer_json is None
    assert "'OddTokenizer', whose way of cutting a text is not known" in found.notes[0]


PANICS = {  # the library's Rust code panics on these, which is no Exception in Python
    "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"},
}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[1", "\x00", "null", '{"model": {"type": "Nonsense"}}', "[" * 100_000),
        *(json.dumps(json.loads(small().to_str()) | {key: PANICS[key]}) for key in PANICS),
    ],
)
def test_a_damaged_tokenizer_json_is_refused(folder, text):
    source = folder()
    (source / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer that can be read"):
        text_of_folder(source, 10, {})


def test_a_file_that_is_no_text_or_too_large_is_refused(folder, monkeypatch):
    source = folder()
    (source / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="is not UTF-8"):
        text_of_folder(source, 10, {})
    (source / "tokenizer.json").write_bytes(b" " * (user_files.LARGEST + 1))
    with pytest.raises(CheckpointError, match=r"134,217,729 bytes; at most 134,217,728 are read"):
        text_of_folder(source, 10, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[1]", "cannot be read"),
        ("vocab.json", '{"a": 0, "b": 0}', "gives two tokens the same id"),
        ("vocab.json", '{"a": 0}', "merges do not fit"),
        ("merges.txt", "a b c\n", "cannot be read"),
        ("vocab.json", '{"a": 4000000000}', "gives 'a' the id 4000000000"),
        ("tokenizer_config.json", "{", "is not readable JSON"),
        ("tokenizer_config.json", "[]", "is not a JSON object"),
        ("tokenizer_config.json", '{"eos_token": 5}', "eos_token names a token that is no text"),
        ("tokenizer_config.json", '{"eos_token": "%s"}' % ("x" * 300), "more than 200 characters"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "has the entry 'x'"),
        ("tokenizer_config.json", '{"additional_special_tokens": 5}', "tokens that is no list"),
        ("added_tokens.json", '{"<x>": 99999999999999999999}', "gives '<x>' the id 999999"),
        ("added_tokens.json", '{"<x>": "7"}', "the id of '<x>' is '7'"),
    ],
)
def test_other_damaged_files_are_refused_by_name(folder, name, content, message):
    source = folder("bytes")
    (source / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        text_of_folder(source, ROWS, {})


def test_an_ordinary_token_beyond_the_embedding_is_refused(folder):
    source = folder("bytes")
    with pytest.raises(CheckpointError, match=r"has 50 tokens beyond the embedding's 350 rows"):
        text_of_folder(source, 350, {})


def test_added_tokens_beyond_the_embedding_are_dropped_and_named(folder):
    source = folder()
    tokenizer = small()
    tokenizer.add_tokens([AddedToken(f"<{i}>", special=i % 2 == 0) for i in range(7)])
    written(source, tokenizer)
    found = text_of_folder(source, 5, {})
    kept = RuntimeTokenizer(found.tokenizer_json or "")
    assert kept.backend.get_vocab() == {"a": 0, "b": 1, "<s>": 2, "<x>": 3, "<0>": 4}
    assert found.notes == (
        "6 added tokens beyond the embedding's 5 rows were dropped: "
        "'<1>', '<2>', '<3>', '<4>', '<5>', ...",
    )


def test_an_added_token_beyond_the_embedding_that_the_model_lists_is_dropped_there_too(folder):
    source = folder()
    tokenizer = small(model=models.BPE({"a": 0, "b": 1, "<s>": 2, "<y>": 9}, []))
    tokenizer.add_special_tokens(["<y>"])
    written(source, tokenizer)
    found = text_of_folder(source, 9, {})
    assert found.notes == ("1 added token beyond the embedding's 9 rows was dropped: '<y>'",)
    assert "<y>" not in (found.tokenizer_json or "")


def test_settings_that_cut_pad_or_vary_texts_are_dropped(folder):
    source = folder()
    tokenizer = small(model=models.BPE({"a": 0, "b": 1, "<s>": 2}, [], dropout=0.5))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8)
    written(source, tokenizer)
    document = json.loads(text_of_folder(source, 10, {}).tokenizer_json or "")
    assert document["truncation"] is document["padding"] is document["model"]["dropout"] is None


def template(single: str, *specials: tuple[str, int]):
    return processors.TemplateProcessing(single=single, special_tokens=list(specials))


BYTES_ONLY = processors.ByteLevel(trim_offsets=False)


@pytest.mark.parametrize(
    ("processor", "config", "start"),
    [
        (template("<s> $A", ("<s>", 2)), {}, (2,)),
        (template("<s> $A", ("<s>", 2)), {"add_bos_token": False}, (2,)),
        (template("<s> <x> $A <x>", ("<s>", 2), ("<x>", 3)), {}, (2, 3)),
        (template("$A <x>", ("<x>", 3)), {"add_bos_token": True, "bos_token": "<s>"}, ()),
        (template("$A"), {}, ()),
        (processors.RobertaProcessing(("<x>", 3), ("<s>", 2)), {}, (2,)),
        (processors.Sequence([BYTES_ONLY, template("<s> $A", ("<s>", 2))]), {}, (2,)),
        (BYTES_ONLY, {"add_bos_token": False, "bos_token": "<s>"}, ()),
        (None, {"bos_token": "<s>"}, ()),
    ],
)
def test_a_prompt_begins_as_the_tokenizer_json_says(folder, processor, config, start):
    source = folder(tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **config})
    written(source, small() if processor is None else small(post_processor=processor))
    usage = text_of_folder(source, 10, {}).usage
    assert usage.start_ids == start
    theirs = auto_tokenizer(source, "llama")("a").input_ids
    assert tuple(theirs[: theirs.index(0)]) == start


def test_add_bos_token_counts_where_the_tokenizer_json_could_not_add_it(folder):
    # DeepSeek's and its distillates': transformers 4 added BOS, 5 does not.
    config = {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "bos_token": "<s>"}
    source = folder(tokenizer_config=config)
    written(source, small(post_processor=BYTES_ONLY))
    assert text_of_folder(source, 10, {}).usage.start_ids == (2,)


def test_a_template_that_begins_with_a_token_that_is_none_is_refused(folder):
    document = json.loads(small(post_processor=template("<s> $A", ("<s>", 2))).to_str())
    document["post_processor"]["special_tokens"] = {}
    source = folder(tokenizer=document)
    with pytest.raises(CheckpointError, match="begins a text with '<s>', which is no token"):
        text_of_folder(source, 10, {})


def test_a_beginning_beyond_the_embedding_is_refused(folder):
    source = folder()
    written(source, small(post_processor=template("<x> $A", ("<x>", 3))))
    with pytest.raises(CheckpointError, match="begins with the ids 3, but the embedding has 3"):
        text_of_folder(source, 3, {})
