"""The text side of encoder-decoders gives the ids of transformers, and its settings of search."""

import io
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import sentencepiece
from small_tokenizers import LINES, write_byte_level
from tokenizers import Tokenizer, processors
from transformers import (
    BartTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    PegasusTokenizer,
    PLBartTokenizer,
    PreTrainedTokenizerBase,
    T5Tokenizer,
)
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from edgegpt.errors import CheckpointError
from edgegpt.importers.text.found import Found
from edgegpt.importers.text.pair import text_of_pair
from edgegpt.model import GPTConfig, Seq2SeqConfig
from edgegpt.runtime.bundle.search import Search

TEXTS = ("Hello, world! It's we'LL", "the import of a model", "日本語 x", "int 1234567890", "a  b")
NLLB = {"tokenizer_class": "NllbTokenizer"}
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def pieces(path: Path, lines: list[str] = LINES[:1500], **settings: object) -> list[str]:
    """Train a small unigram model, unless `settings` say otherwise; return its pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **{"model_type": "unigram"} | settings,
    )
    path.write_bytes(model.getvalue())
    own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [own.id_to_piece(number) for number in range(own.get_piece_size())]


def found_in(folder: Path, rows: int, targets: int | None = None, **settings: object) -> Found:
    """Return the text side of a folder whose model has embeddings of so many rows."""
    encoder, decoder = (
        GPTConfig(vocab_size=size, block_size=8, n_layer=1, n_head=1, n_embd=8)
        for size in (rows, targets or rows)
    )
    return text_of_pair(folder, Seq2SeqConfig(encoder, decoder, targets is None), settings)


def assert_same_sources(found: Found, theirs: PreTrainedTokenizerBase, *texts: str) -> None:
    """Compare whole sources, with what stands around them."""
    assert found.tokenizer_json is not None
    assert found.usage.source is not None
    around = found.usage.source
    ours = Tokenizer.from_str(found.source_tokenizer_json or found.tokenizer_json)
    for text in (*TEXTS, *texts):
        own = ours.encode(text, add_special_tokens=False).ids
        assert [*around.prefix_ids, *own, *around.suffix_ids] == theirs(text).input_ids, text


def assert_same_language(found: Found, theirs: PreTrainedTokenizerBase, code: str) -> None:
    """Compare a source in a language that is not the folder's own; `theirs` knows it from then."""
    theirs.src_lang = code
    around = found.usage.source
    assert around is not None
    ours = Tokenizer.from_str(found.tokenizer_json or "")
    own = ours.encode(TEXTS[1], add_special_tokens=False).ids
    assert around.around(own, around.languages[code]) == theirs(TEXTS[1]).input_ids
    assert around.around(own) != theirs(TEXTS[1]).input_ids


@pytest.fixture
def marian(tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """Return a folder as of OPUS-MT, with one vocabulary for both languages."""
    both = pieces(tmp_path / "source.spm") + pieces(tmp_path / "target.spm", LINES[1500:3000])
    special = ("<s>", "</s>", "<unk>")
    names = ["</s>", "<unk>", *(piece for piece in both if piece not in special)]
    ids = {name: place for place, name in enumerate(dict.fromkeys([*names, ">>fra<<", "<pad>"]))}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    return tmp_path, ids


def marian_tokenizer(folder: Path, **settings: object) -> MarianTokenizer:
    paths = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    return MarianTokenizer(*paths, **settings)


def test_marian_encodes_by_one_model_and_decodes_by_the_other(
    marian: tuple[Path, dict[str, int]],
) -> None:
    folder, ids = marian
    theirs, found = marian_tokenizer(folder), found_in(folder, len(ids), model_type="marian")
    assert_same_sources(found, theirs, ">>fra<< hello")
    assert found.tokenizer_json is not None
    targets = Tokenizer.from_str(found.tokenizer_json)
    for text in TEXTS[:2]:
        own = targets.encode(text, add_special_tokens=False).ids
        assert [*own, 0] == theirs(text_target=text).input_ids
        assert targets.decode(own) == theirs.decode(own)


def test_marian_with_two_vocabularies_has_ids_of_each(marian: tuple[Path, dict[str, int]]) -> None:
    folder, ids = marian
    turned = ["</s>", "<unk>", *reversed([name for name in ids if ids[name] > 1])]
    others = {name: place for place, name in enumerate(turned)}
    (folder / "target_vocab.json").write_text(json.dumps(others))
    theirs = marian_tokenizer(
        folder, separate_vocabs=True, target_vocab_file=str(folder / "target_vocab.json")
    )
    found = found_in(folder, len(ids), len(ids), model_type="marian")
    assert_same_sources(found, theirs)
    assert found.tokenizer_json is not None
    own = Tokenizer.from_str(found.tokenizer_json).encode(TEXTS[1], add_special_tokens=False).ids
    assert [*own, 0] == theirs(text_target=TEXTS[1]).input_ids


def test_settings_of_the_search_count_without_the_start_id(
    marian: tuple[Path, dict[str, int]],
) -> None:
    folder, ids = marian
    pad = ids["<pad>"]
    settings = {
        "model_type": "marian",
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "pad_token_id": pad,
        "bad_words_ids": [[pad], [0]],
        "num_beams": 6,
        "max_length": 512,
        "min_length": 5,
        "forced_bos_token_id": 7,
        "forced_eos_token_id": 0,
    }
    found = found_in(folder, len(ids), **settings)
    usage = found.usage
    assert (usage.start_ids, usage.end_ids, usage.pad_id) == ((pad,), (0,), pad)
    assert usage.search == Search(
        num_beams=6,
        min_new_tokens=4,
        max_new_tokens=511,
        forced_bos=7,
        forced_eos=0,
        bad_words=((pad,),),
    )
    assert found.notes == ()


def test_t5_ends_a_source_and_counts_its_extra_tokens_backwards(tmp_path: Path) -> None:
    count = len(pieces(tmp_path / "spiece.model", **T5_IDS))
    found = found_in(tmp_path, count + 128, model_type="t5", eos_token_id=1)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    theirs = T5Tokenizer.from_pretrained(tmp_path)
    assert_same_sources(found, theirs, "a <extra_id_0> b <extra_id_99>")
    assert found.tokenizer_json is not None
    own = Tokenizer.from_str(found.tokenizer_json)
    assert own.token_to_id("<extra_id_0>") == count + 99
    assert own.token_to_id("<extra_id_99>") == count
    theirs.save_pretrained(tmp_path / "saved")
    saved = found_in(tmp_path / "saved", count + 128, model_type="t5", eos_token_id=1)
    assert_same_sources(saved, theirs)


def test_m2m100_begins_a_source_with_its_language(tmp_path: Path) -> None:
    names = pieces(tmp_path / "sentencepiece.bpe.model")
    own = ["<s>", "<pad>", "</s>", "<unk>", *names[3:]]
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({name: place for place, name in enumerate(own)}))
    model = str(tmp_path / "sentencepiece.bpe.model")
    theirs = M2M100Tokenizer(str(vocabulary), model, src_lang="fr")
    theirs.save_pretrained(tmp_path)
    found = found_in(tmp_path, len(own) + 108, model_type="m2m_100", eos_token_id=2)
    assert_same_sources(found, theirs)
    assert found.usage.source is not None
    languages = found.usage.source.languages
    assert len(languages) == 100
    assert languages == {code: theirs.get_lang_id(code) for code in languages}
    assert_same_language(found, theirs, "zu")


@pytest.mark.parametrize("kind", [MBartTokenizer, MBart50Tokenizer])
def test_mbart_has_a_language_around_a_source(tmp_path: Path, kind: type) -> None:
    count = len(pieces(tmp_path / "sentencepiece.bpe.model"))
    settings = {"tokenizer_class": kind.__name__, "src_lang": "ro_RO"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = kind.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        found = found_in(folder, count + 60, model_type="mbart", eos_token_id=2)
        ours = Tokenizer.from_str(found.tokenizer_json or "")
        around, text = found.usage.source, TEXTS[1]
        assert around is not None
        own = ours.encode(text, add_special_tokens=False).ids
        assert [*around.prefix_ids, *own, *around.suffix_ids] == theirs(text).input_ids
        assert around.languages["de_DE"] == theirs.convert_tokens_to_ids("de_DE")
        assert_same_language(found, theirs, "de_DE")
        theirs.src_lang = "ro_RO"


@pytest.mark.parametrize("named", [{}, {"src_lang": "__java__"}])
def test_plbart_has_its_language_behind_a_source(tmp_path: Path, named: dict[str, str]) -> None:
    count = len(pieces(tmp_path / "sentencepiece.bpe.model"))
    settings = {"tokenizer_class": "PLBartTokenizer", "language_codes": "base"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | named))
    theirs = PLBartTokenizer(str(tmp_path / "sentencepiece.bpe.model"), **named)
    found = found_in(tmp_path, count + 5, model_type="plbart", eos_token_id=2)
    assert_same_sources(found, theirs)
    assert_same_language(found, theirs, "python")


def test_nllb_numbers_its_pieces_and_languages_as_fairseq(tmp_path: Path) -> None:
    """transformers 5.24 forgets the languages of such a folder; their ids are those of 4."""
    path = tmp_path / "sentencepiece.bpe.model"
    count = len(pieces(path, model_type="bpe"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(NLLB | {"src_lang": "fra_Latn"}))
    named = {"mask_token": "<mask>", "additional_special_tokens": ["ace_Latn", "ace_Arab"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    found = found_in(tmp_path, count + 204, model_type="m2m_100", eos_token_id=2)
    ours = Tokenizer.from_str(found.tokenizer_json or "")
    around, codes = found.usage.source, FAIRSEQ_LANGUAGE_CODES
    assert around is not None
    assert around.languages == {code: count + 1 + place for place, code in enumerate(codes)}
    assert ours.token_to_id("<mask>") == count + 1 + len(codes)
    assert around.around([9]) == [around.languages["fra_Latn"], 9, 2]
    assert around.around([9], 5) == [5, 9, 2]
    own, unknown = sentencepiece.SentencePieceProcessor(model_file=str(path)), 0
    for text in (*TEXTS, "line\nbreak", "x fra_Latn"):
        ids = [3 if piece == unknown else piece + 1 for piece in own.encode(text)]
        if text == "x fra_Latn":  # found as it is, as in transformers
            ids = [*ids[: len(own.encode("x "))], around.languages["fra_Latn"]]
        assert ours.encode(text, add_special_tokens=False).ids == ids, text


def test_an_m2m100_without_its_table_of_ids_is_refused(tmp_path: Path) -> None:
    pieces(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(CheckpointError, match=r"vocab\.json is missing, which has the ids"):
        found_in(tmp_path, 500, model_type="m2m_100")


@pytest.mark.parametrize("named", [False, True])
def test_pegasus_has_its_pieces_behind_tokens_of_its_training(tmp_path: Path, named: bool) -> None:
    count = len(pieces(tmp_path / "spiece.model", **T5_IDS))
    unknown = [f"<unk_{number}>" for number in range(2, 103)]
    settings = {"tokenizer_class": "PegasusTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = PegasusTokenizer.from_pretrained(tmp_path)
    if named:  # transformers 5.24 gives the masks each other's ids where they are named
        own = {"mask_token": "<mask_2>", "additional_special_tokens": ["<mask_1>", *unknown]}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(own))
    ids = {"decoder_start_token_id": 0, "eos_token_id": 1}
    found = found_in(tmp_path, count + 103, model_type="pegasus", **ids)
    assert found.notes == ()
    assert_same_sources(found, theirs, "a<mask_1>b<mask_2>", "<unk_7>x", "line\nbreak")
    ours = Tokenizer.from_str(found.tokenizer_json or "")
    for name in ("<pad>", "</s>", "<mask_1>", "<mask_2>", *unknown, "<unk>"):
        assert ours.token_to_id(name) == theirs.convert_tokens_to_ids(name), name
    assert ours.token_to_id("<unk>") == 105
    text = "Hello, world!"
    assert ours.decode(ours.encode(text).ids) == text
    theirs.save_pretrained(tmp_path / "saved")
    saved = found_in(tmp_path / "saved", count + 103, model_type="pegasus", eos_token_id=1)
    assert_same_sources(saved, theirs)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"offset": 1}, "offset is 1"), ({"mask_token_sent": 3}, "mask_token_sent is 3")],
)
def test_settings_of_pegasus_that_make_no_sense_are_refused(
    tmp_path: Path, settings: dict[str, object], reason: str
) -> None:
    pieces(tmp_path / "spiece.model", **T5_IDS)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=reason):
        found_in(tmp_path, 500, model_type="pegasus")


def test_bart_has_its_two_tokens_around_a_source(tmp_path: Path) -> None:
    write_byte_level(tmp_path)
    names = json.loads((tmp_path / "vocab.json").read_text())
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    names |= {text: len(names) + place for place, text in enumerate(special)}
    (tmp_path / "vocab.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BartTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    theirs = BartTokenizer.from_pretrained(tmp_path)
    found = found_in(tmp_path, len(names), model_type="bart")
    assert_same_sources(found, theirs)
    theirs.save_pretrained(tmp_path / "saved")
    assert_same_sources(found_in(tmp_path / "saved", len(names), model_type="bart"), theirs)


def test_a_post_processor_tells_what_is_around_a_source(tmp_path: Path) -> None:
    write_byte_level(tmp_path)
    own = Tokenizer.from_file(_as_json(tmp_path))
    own.add_special_tokens(["[A]", "[B]"])
    tokens = [(text, own.token_to_id(text)) for text in ("[A]", "[B]")]
    own.post_processor = processors.TemplateProcessing("[B] [A] $0 [A] [B]", None, tokens)
    own.save(str(tmp_path / "tokenizer.json"))
    found = found_in(tmp_path, own.get_vocab_size(), model_type="t5")
    assert found.usage.source is not None
    (a, b) = (number for _, number in tokens)
    assert found.usage.source.prefix_ids == (b, a)
    assert found.usage.source.suffix_ids == (a, b)


def _as_json(folder: Path) -> str:
    from tokenizers import models, pre_tokenizers

    own = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"</s>": 0, "<unk>": 0}, "gives two tokens the same id"),
        ({"</s>": 0, "<unk>": "1"}, "the id of '<unk>' is '1'"),
        ({"</s>": 0}, "has no <unk>"),
        ({"</s>": 0, "<unk>": 500}, "beyond the embedding's 40 rows"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_refused(
    marian: tuple[Path, dict[str, int]], change: dict[str, object], reason: str
) -> None:
    folder, _ = marian
    (folder / "vocab.json").write_text(json.dumps(change))
    with pytest.raises(CheckpointError, match=reason):
        found_in(folder, 40, model_type="marian")


def test_a_language_that_the_tokenizer_lacks_is_refused(tmp_path: Path) -> None:
    count = len(pieces(tmp_path / "sentencepiece.bpe.model"))
    settings = {"tokenizer_class": "MBartTokenizer", "src_lang": "xx_XX"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="src_lang is 'xx_XX', which is no language"):
        found_in(tmp_path, count + 60, model_type="mbart")
