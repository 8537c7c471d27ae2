"""The optimization profiles: which shapes an engine takes, and for which it is tuned.

"prefill" takes any number of new tokens, up to one chunk of a prompt. "decode" takes one token per
row, the step that generation repeats, and is tuned for exactly this shape. An encoder has only
"encode", which takes sources of any length.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...bundle.bundle import Bundle
from ...bundle.manifest import Graph, ModelInfo, Port
from ...errors import EngineError, InvalidInputError
from ..base import PREFILL_CHUNK

__all__ = [
    "DECODE",
    "PREFILL",
    "Limits",
    "Profile",
    "add_profiles",
    "check_attention",
    "profiles",
]

PREFILL, DECODE = 0, 1  # the numbers of the profiles in the engine
# The default, because the proof runs four rows at once.
USUAL_BATCH = 4
LARGEST_TENSOR = 2**31 - 1  # elements, TensorRT's limit


@dataclass(frozen=True)
class Limits:
    """What an engine is built for.

    Attributes:
        max_batch: most rows of one generation, and most sources.
        max_context: cache slots of every row; shorter texts may use fewer.
        max_source: most places of a source; 0 if the model takes none.
    """

    max_batch: int
    max_context: int
    max_source: int = 0

    @classmethod
    def of(cls, info: ModelInfo, max_batch: int | None, max_context: int | None) -> "Limits":
        """Return the limits for a model of these sizes; None: what `edgegpt verify` needs.

        Raises:
            InvalidInputError: if a number is impossible.
        """
        block_size = info.block_size
        batch = USUAL_BATCH if max_batch is None else max_batch
        context = block_size if max_context is None else max_context
        if type(batch) is not int or batch < 1:
            raise InvalidInputError(f"max_batch is {batch!r}; it must be a whole number from 1 on")
        if type(context) is not int or not 1 <= context <= block_size:
            raise InvalidInputError(
                f"max_context is {context!r}; it must be from 1 to the block size, {block_size}"
            )
        return cls(batch, context, 0 if info.encoder is None else info.encoder.block_size)

    @property
    def max_new_tokens(self) -> int:
        """The longest step, in tokens per row."""
        return min(self.max_context, PREFILL_CHUNK)


@dataclass(frozen=True)
class Profile:
    """The least, usual and largest shape of each input, by the input's name."""

    name: str
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


def profiles(graph: Graph, limits: Limits) -> tuple[Profile, ...]:
    """Return the profiles "prefill" and "decode" of a decoder, or "encode" of an encoder.

    Raises:
        InvalidInputError: if a tensor would exceed TensorRT's largest size.
    """
    batch, longest, source = (1, 1, limits.max_batch), limits.max_new_tokens, limits.max_source
    shared = {"batch": batch, "sources": batch, "source": (1, max(1, source // 2), source)}
    new_tokens = (1, max(1, longest // 2), longest)
    steps = {
        "prefill": shared | {"new_tokens": new_tokens, "logit_positions": (1, 1, longest)},
        "decode": shared | {"new_tokens": (1, 1, 1), "logit_positions": (1, 1, 1)},
    }
    if graph.is_encoder:
        steps = {"encode": shared}
    for port in [*graph.inputs, *graph.outputs]:
        for sizes in steps.values():
            if math.prod(_range(port, sizes, limits)[2]) > LARGEST_TENSOR:
                raise _too_large(limits, port.name)
    return tuple(
        Profile(name, {port.name: _range(port, sizes, limits) for port in graph.inputs})
        for name, sizes in steps.items()
    )


def check_attention(bundle: Bundle, limits: Limits) -> None:
    """Refuse limits with which attention's scores, [B, heads, T, S], would have too many elements.

    Some versions of TensorRT notice this only when the engine runs.

    Raises:
        InvalidInputError: if there would be too many.
    """
    heads = bundle.manifest.model_info.n_head
    if limits.max_batch * heads * limits.max_new_tokens * limits.max_context > LARGEST_TENSOR:
        raise _too_large(limits, "the scores of attention")


def _too_large(limits: Limits, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"with {limits.max_batch} rows of {limits.max_context} tokens, {what} would have more than "
        f"the {LARGEST_TENSOR:,} elements of TensorRT's largest tensor: choose a smaller max_batch "
        f"or max_context"
    )


def add_profiles(builder: Any, config: Any, wanted: tuple[Profile, ...]) -> None:
    """Add the profiles to the builder's config, in order.

    Raises:
        EngineError: if TensorRT does not accept one.
    """
    for number, profile in enumerate(wanted):
        made = builder.create_optimization_profile()
        for name, (least, usual, largest) in profile.shapes.items():
            made.set_shape(name, least, usual, largest)
        if config.add_optimization_profile(made) != number:
            raise EngineError(f"TensorRT does not accept the profile {profile.name}")


def _range(
    port: Port, sizes: dict[str, tuple[int, int, int]], limits: Limits
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    known = {**sizes, "context": (limits.max_context,) * 3}
    least, usual, largest = (
        port.sized({symbol: three[place] for symbol, three in known.items()}) for place in range(3)
    )
    return least, usual, largest
