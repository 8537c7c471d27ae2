"""The part of a model's config that a runtime needs."""

from dataclasses import dataclass, replace
from typing import Any

from ..errors import BundleError
from .fields import positive, take, word
from .vocabulary import POSITIONS, Position

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """The sizes of a model, by the names of its config; `head_dim` is the width of one head.

    Those of an encoder-decoder are its decoder's; `encoder` has the other ones.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_ff: int
    position: Position
    encoder: "ModelInfo | None" = None

    @classmethod
    def of(cls, config: dict[str, Any], where: str) -> "ModelInfo":
        """Read the sizes from the config at `where`.

        Raises:
            BundleError: if no runtime could run a model of these sizes.
        """
        if "encoder" in config:
            encoder, decoder = (
                cls.of(take(config, name, dict, where), f"{where}: {name}")
                for name in ("encoder", "decoder")
            )
            if encoder.encoder or decoder.encoder:
                raise BundleError(f"{where}: a part of an encoder-decoder has an encoder itself")
            return replace(decoder, encoder=encoder)
        n_head, n_kv_head = (positive(config, key, where) for key in ("n_head", "n_kv_head"))
        if n_head % n_kv_head:
            raise BundleError(
                f"{where}: n_head is {n_head}, which is no multiple of n_kv_head, {n_kv_head}"
            )
        return cls(
            vocab_size=positive(config, "vocab_size", where),
            block_size=positive(config, "block_size", where),
            n_layer=positive(config, "n_layer", where),
            n_head=n_head,
            n_kv_head=n_kv_head,
            head_dim=positive(config, "head_dim", where),
            n_ff=positive(config, "n_ff", where),
            position=word(config, "position", POSITIONS, where),
        )
