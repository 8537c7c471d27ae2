"""Small tokenizers, trained in the test, and texts that tokenizers find hard."""

import io
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

LINES = [line for text in topics.values() for line in text.split("\n") if line.strip()][:3000]
LINES += ["é ñ ü ﬁ ① ½ 日本語 한국어 \uff41\uff42\uff43", "<0x0A> <sep> «q» x"] * 20

HARD_TEXTS = [
    *(
        "",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\t",
        "a",
        " a",
        "  a",
        "a ",
        "a  ",
        " a b  c ",
        "\r\n\r",
    ),
    *("Hello, world! It's we'LL", "1234567890 3.14 1,000", "def f(x):\n    return x\n\n\n"),
    *("▁", "▁▁", "▁a", "a▁b", " ▁", "▁ ", "a ▁", "<0x0A>", "x<0x41>y", "<sep>a <sep> b", "a«q»b"),
    *(
        "日本語のテキスト",
        "한국어 각 ㄱ",
        "עברית العربية हिन्दी ไทย",
        "👩\u200d🚀🇩🇪👍🏽",
        "é e\u0301 n\u0303",
    ),
    *(
        "ﬁ ﬂ Ⅷ ① ½",
        "\uff41\uff42\uff43\u3000\uff21\uff22\uff23 \uff5e",
        "\u200b\u200d\ufeff",
        "\x01\x7f",
        "a\u00a0b\u3000c",
        "İıſ",
    ),
    *("a" * 150, " " * 70 + "x", "=-" * 40, "\ufffd", "\U0010ffff", "x" + "\n" * 30, "......"),
]


def write_byte_level(folder: Path, size: int = 400) -> None:
    """Train GPT-2's kind of tokenizer and write vocab.json and merges.txt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES[:1000], trainer)
    tokenizer.model.save(str(folder))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")


def sentence_piece(path: Path, model_type: str, rule: str = "identity", **settings: Any) -> None:
    """Train a SentencePiece model of about 600 pieces with a control and two user-defined ones."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type=model_type,
        normalization_rule_name=rule,
        vocab_size=600,
        hard_vocab_limit=False,
        user_defined_symbols=["<sep>", "«q»"],
        control_symbols=["[INST]"],
        minloglevel=2,
        num_threads=1,
        **{"byte_fallback": True, "remove_extra_whitespaces": False} | settings,
    )
    path.write_bytes(model.getvalue())
