"""The part of a model's config that a runtime needs."""

from dataclasses import dataclass
from typing import Any

from ..errors import BundleError
from .fields import positive, word
from .vocabulary import POSITIONS, Position

__all__ = ["ModelInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """The sizes of a model, by the names of its config; `head_dim` is the width of one head."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_ff: int
    position: Position

    @classmethod
    def of(cls, config: dict[str, Any], where: str) -> "ModelInfo":
        """Read the sizes from the config at `where`.

        Raises:
            BundleError: if no runtime could run a model of these sizes.
        """
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
