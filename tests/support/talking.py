"""A model whose tokens are bytes, and which writes what a test wants it to write."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_models import random_model, small_config, write_checkpoint
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgegpt.export import export_bundle
from edgegpt.export.settings import ExportSettings
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.text.tokenizer import Tokenizer

__all__ = ["END", "ROWS", "byte_tokenizer", "say", "write_byte_bundle"]

END, ROWS, CONTEXT = "<end>", 272, 768
CHOOSE = Rules.choose


def byte_tokenizer(special: Sequence[str] = (), plain: Sequence[str] = ()) -> Tokenizer:
    """Return a tokenizer of single bytes, with added tokens; the id of `END` is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in (END, *special)])
    backend.add_tokens([AddedToken(name, special=False) for name in plain])
    return Tokenizer(backend.to_str())


def write_byte_bundle(folder: Path) -> Path:
    """Write a bundle of a small model of bytes; its context ends, it does not slide."""
    config = small_config(vocab_size=ROWS, block_size=CONTEXT, position="rope", n_layer=1)
    checkpoint = write_checkpoint(folder / "checkpoint", random_model(config), None)
    (checkpoint / "tokenizer.json").write_text(byte_tokenizer().backend.to_str())
    export_bundle(checkpoint, folder / "bundle", settings=ExportSettings(lowerings=("ort",)))
    return folder / "bundle"


def say(patch: pytest.MonkeyPatch, tokenizer: Tokenizer, text: str) -> None:
    """Let the model write this text and end, whatever it computes."""
    script = [*tokenizer.encode(text), tokenizer.added_id(END)]

    def chosen(rules: Rules, text: Any, logits: Any) -> Any:
        found, token = CHOOSE(rules, text, logits), script[len(text.new_ids)]
        logprob = found.logprob and replace(found.logprob, token_id=token)
        return found._replace(token=token, logprob=logprob)

    patch.setattr(Rules, "choose", chosen)
