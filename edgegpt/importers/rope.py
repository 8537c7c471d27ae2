"""Rotary frequencies from the settings of a checkpoint, in both dialects of config.json.

transformers 5 writes `rope_parameters`, earlier versions `rope_theta` and `rope_scaling`. All
formulas are computed in float32, in the order of transformers' `modeling_rope_utils.py`, because
the angles of far positions depend on the rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .settings import SourceSettings

__all__ = ["AXES", "Rotation", "rotation_of", "rotations_of"]

Parameters = dict[str, Any]
# Positions with an axis for each direction in an image. A text moves on all of them alike.
AXES = ("mrope_section", "mrope_interleaved")


@dataclass(frozen=True)
class Rotation:
    """How queries and keys are rotated.

    Attributes:
        angles: radians per position of each pair.
        factor: factor on cosines and sines.
        limit: the longest text for which this holds; longer ones need other angles. None: any.
    """

    angles: tuple[float, ...]
    factor: float = 1.0
    limit: int | None = None


def rotation_of(
    source: SourceSettings,
    width: int,
    *,
    theta: float = 10000.0,
    partial: float | None = None,
    original: int | None = None,
) -> Rotation:
    """Return the rotation of all layers.

    Args:
        source: settings of the checkpoint.
        width: width of a head.
        theta: the family's default base.
        partial: the family's default share of a head that is rotated; None: it knows whole heads
            only.
        original: the family's default of the longest text before the angles were scaled.
    """
    new = source.table("rope_parameters")
    given = source.table("rope_scaling") or new  # the order in which transformers 5 looks
    given.setdefault("rope_theta", source.number("rope_theta", "rotary_emb_base", default=theta))
    share = source.number("partial_rotary_factor", "rotary_pct", default=partial or 1.0)
    given.setdefault("partial_rotary_factor", share)
    outer = source.values.get("original_max_position_embeddings", original)
    if outer is not None:  # outranks the one among the parameters
        given["original_max_position_embeddings"] = outer
    source.ignore("original_max_position_embeddings")
    return _rotation(source, given, width, whole=partial is None)


def rotations_of(
    source: SourceSettings, width: int, bases: dict[str, tuple[str, float]]
) -> dict[str, Rotation]:
    """Return the rotation of each type of layer.

    Args:
        source: settings of the checkpoint.
        width: width of a head.
        bases: for each type of layer, where transformers 4 has its base, and the family's default.
            That dialect's `rope_scaling` is for layers with full attention only.
    """
    given = source.table("rope_parameters")
    own = _Table(source, given)
    unknown = sorted(set(given) - set(bases))
    if unknown:
        raise source.error(f"rope_parameters has the unknown type of layer {unknown[0]!r:.80}")
    scaling = {"full_attention": source.table("rope_scaling")}
    return {
        kind: _rotation(
            source,
            {
                "rope_theta": source.number(name, default=theta),
                **scaling.get(kind, {}),
                **own.table(kind),
            },
            width,
            whole=True,
        )
        for kind, (name, theta) in bases.items()
    }


def _rotation(source: SourceSettings, given: Parameters, width: int, *, whole: bool) -> Rotation:
    """Return the rotation with the parameters `given`; `whole`: it must be of whole heads."""
    table = _Table(source, given)
    kind = table.word("rope_type", "type", default="default")
    theta = table.positive("rope_theta")
    share = table.positive("partial_rotary_factor", default=1.0)
    if whole and share != 1.0:
        raise source.error(
            f"partial_rotary_factor is {share:g}, but this family rotates whole heads"
        )
    rotated = int(width * min(share, 1.0))
    if share > 1 or rotated < 1:
        raise source.error(f"partial_rotary_factor is {share:g}, which is not a share of {width}")
    if kind not in TYPES:
        raise source.error(f"the rope type {kind!r:.80} is not known; known: {', '.join(TYPES)}")
    powers = torch.arange(0, rotated, 2, dtype=torch.int64).float() / rotated  # (R)
    found = TYPES[kind](table, theta**powers, theta)
    table.finish()
    return found


class _Table(SourceSettings):
    """The settings of one rotation; `outer` has those of the whole model."""

    def __init__(self, outer: SourceSettings, values: Parameters) -> None:
        super().__init__(values, f"{outer.where}: rope parameters")
        self.outer = outer

    def longest(self) -> int:
        """Return the longest text of the model, in tokens."""
        return self.outer.whole("max_position_embeddings", "n_positions")

    def original(self) -> int:
        """Return the longest text before the frequencies were scaled."""
        return self.whole("original_max_position_embeddings", default=self.longest())


def _default(table: _Table, periods: Tensor, theta: float) -> Rotation:
    table.ignore("original_max_position_embeddings", "factor")
    return Rotation(_floats(1.0 / periods))


def _linear(table: _Table, periods: Tensor, theta: float) -> Rotation:
    table.ignore("original_max_position_embeddings")
    return Rotation(_floats(1.0 / periods / table.positive("factor")))


def _dynamic(table: _Table, periods: Tensor, theta: float) -> Rotation:
    """NTK-aware scaling changes the angles with the length, but only beyond the model's own one."""
    table.ignore("factor", "original_max_position_embeddings")
    return Rotation(_floats(1.0 / periods), limit=table.longest())


def _llama3(table: _Table, periods: Tensor, theta: float) -> Rotation:
    """Llama 3.1: slow angles are divided by the factor, middle ones in part."""
    angles, factor, original = 1.0 / periods, table.positive("factor"), table.original()
    low, high = table.positive("low_freq_factor"), table.positive("high_freq_factor")
    length = 2 * math.pi / angles  # positions per turn
    scaled = torch.where(length > original / low, angles / factor, angles)
    share = (original / length - low) / (high - low)
    smooth = (1 - share) * scaled / factor + share * scaled
    middle = ~(length < original / high) & ~(length > original / low)
    return Rotation(_floats(torch.where(middle, smooth, scaled)))


def _yarn(table: _Table, periods: Tensor, theta: float) -> Rotation:
    """YaRN (Peng et al. 2023). Ministral's scale of queries grows beyond the original length."""
    table.ignore("max_position_embeddings")  # Ministral repeats it
    original, width = table.original(), 2 * len(periods)
    if theta <= 1:
        raise table.error(f"rope_theta is {theta:g}; yarn needs one greater than 1")
    factor = table.positive("factor", default=table.longest() / original)
    own_factor = table.number("attention_factor", default=_yarn_factor(table, factor))

    def place(turns: float) -> float:
        """Return the pair that makes `turns` turns within the original length."""
        if not 0 < original / (turns * 2 * math.pi) < math.inf:
            raise table.error(f"no pair makes {turns:g} turns, which beta_fast or beta_slow asks")
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = place(table.positive("beta_fast", default=32.0))
    last = place(table.positive("beta_slow", default=1.0))
    if table.flag("truncate", default=True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001  # as transformers does, to avoid a division by zero
    ramp = ((torch.arange(len(periods)).float() - first) / (last - first)).clamp(0, 1)
    kept = 1 - ramp
    scaled = 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept
    grows = table.number("llama_4_scaling_beta", default=0.0) != 0.0
    return Rotation(_floats(scaled), own_factor, original if grows else None)


def _yarn_factor(table: _Table, factor: float) -> float:
    """Return the factor on cosines and sines (YaRN, eq. 15, with DeepSeek's `mscale`)."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    upper, lower = (table.number(name, default=0.0) for name in ("mscale", "mscale_all_dim"))
    return scale(upper) / scale(lower) if upper and lower else scale(1.0)


def _longrope(table: _Table, periods: Tensor, theta: float) -> Rotation:
    """LongRoPE (Ding et al. 2024): other angles beyond the original length, which is the limit."""
    original = table.original()
    if original < 2:
        raise table.error(f"original_max_position_embeddings is {original}: too short")
    factor = table.positive("factor", default=table.longest() / original)
    usual = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    table.ignore("long_factor")
    own_factor = table.number("attention_factor", default=usual)
    short = table.listed("short_factor")
    if short is None or len(short) != len(periods):
        raise table.error(f"short_factor must have {len(periods)} numbers")
    if not all(type(each) in (int, float) and 0 < each < math.inf for each in short):
        raise table.error("short_factor has entries that are not numbers greater than 0")
    scaled = 1.0 / (torch.tensor(short, dtype=torch.float32) * periods)
    return Rotation(_floats(scaled), own_factor, original)


def _floats(angles: Tensor) -> tuple[float, ...]:
    return tuple(angles.tolist())


# The functions take the settings, theta ** (2 i / R) of each pair i, and theta.
TYPES: dict[str, Callable[[_Table, Tensor, float], Rotation]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,  # its name before transformers 4.41
}
