"""Where a family of encoder-decoders keeps its weights: one layout for each of the two stacks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..model import Seq2SeqConfig
from .layout import Layout, Shape, Weight
from .plan import plan

__all__ = ["PairLayout", "plan_pair"]

TOKEN = "token_embedding.weight"


@dataclass(frozen=True)
class PairLayout:
    """The names of a family's tensors.

    Attributes:
        encoder: those of the encoder.
        decoder: those of the decoder, and of the head.
        tables: names, as of modules, under which a file may repeat an embedding that both stacks
            share. They must all be equal.
        ignored: patterns of tensors that hold nothing trained.
    """

    encoder: Layout
    decoder: Layout
    tables: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """Empty: layouts are made for the names that the file has."""
        return ""

    @property
    def token(self) -> str:
        """The embedding of the source's tokens."""
        return self.encoder.token

    def ignores(self, name: str) -> bool:
        """Return whether the tensor `name` holds nothing trained."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def copies(self, config: Seq2SeqConfig) -> dict[str, str]:
        """Return tensors that a file may repeat, with the parameters of ours that they equal."""
        shared = f"encoder.{TOKEN}"
        found = {f"{name}.weight": shared for name in self.tables if config.shared_embedding}
        if config.decoder.tie_embeddings:
            own = shared if config.shared_embedding else f"decoder.{TOKEN}"
            found[f"{self.decoder.head}.weight"] = own
        found.pop(f"{self.token}.weight", None)
        return found


def plan_pair(
    layout: PairLayout, config: Seq2SeqConfig, shapes: Mapping[str, Shape]
) -> dict[str, Weight]:
    """Return what each parameter of an encoder-decoder is made of; see `plan`."""
    found: dict[str, Weight] = {}
    for side, names, stack in (
        ("encoder", layout.encoder, config.encoder),
        ("decoder", layout.decoder, config.decoder),
    ):
        own = {
            name.removeprefix(f"{side}."): shape
            for name, shape in shapes.items()
            if name.startswith(f"{side}.")
        }
        found |= {f"{side}.{name}": weight for name, weight in plan(names, stack, own).items()}
    return found
