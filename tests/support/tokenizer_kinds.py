"""Small tokenizers of the kinds that the runtime meets, and texts of many bytes a character."""

import functools

from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgegpt.runtime.text.tokenizer import Tokenizer
from edgegpt.training.char_tokenizer import build_char_tokenizer

__all__ = ["bpe_without_unknown", "byte_tokenizer", "char_tokenizer", "many_bytes"]

CORPUS = ["hello world, the quick brown fox", "jumps over the lazy dog", "grüße 🙂 日本"] * 3

# Every length of UTF-8, joiners, modifiers and flags; never the replacement character itself.
many_bytes = st.text(
    st.sampled_from("ab é\u0301ß日本🙂👩\u200d🚀🇩🇪👍🏽\U0001d518\U0010ffff\n"), max_size=25
)


def char_tokenizer(text: str) -> Tokenizer:
    """Return a tokenizer that knows the characters of `text`."""
    return Tokenizer(build_char_tokenizer(text).to_str())


@functools.cache
def byte_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer like GPT-2's, with a few merges."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(backend.to_str())


def bpe_without_unknown() -> Backend:
    """Return a tokenizer that knows a, b and ab, and silently drops everything else."""
    backend = Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.decoder = decoders.Fuse()
    return backend
