"""The settings of an export, apart from its precision."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.vocabulary import Lowering

__all__ = ["AUTO", "TARGETS", "ExportSettings", "Target"]

AUTO: Literal["auto"] = "auto"

Target = Literal["web"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export. None leaves a choice to the recipe.

    A setting that the precision does not offer is refused.

    Attributes:
        keep_fp32: layers to leave in float32, by full name or by a prefix that ends at a dot. In
            float16, layers that would overflow are kept as well. For int8 and int4, "auto" keeps
            as few layers as the budget needs if more bits and finer blocks do not suffice.
        method: "rtn" rounds to nearest, "gptq" is better for int4; None: the precision's default.
        calibration: text that shows what the layers read, which should not overlap the held-out
            text; None: the model writes its own, or, if its checkpoint brings no held-out text,
            topics of Python's help.
        max_kl: largest mean KL to float32 per token, in nats; None: `proof.quality.BUDGETS`.
        fast_prefill: whether to add a graph for faster prefill, with an int8 copy of the weights;
            None: yes.
        lowerings: names of those that the bundle gets; None: all that the model can have.
        target: "web" gives the bundle one set of weights and the one graph that generates fast in a
            browser (and, in int8, an exact one over the same weights). It takes the place of
            `fast_prefill` and `lowerings`.
    """

    keep_fp32: Literal["auto"] | tuple[str, ...] | None = None
    method: Literal["rtn", "gptq"] | None = None
    calibration: str | None = None
    max_kl: float | None = None
    fast_prefill: bool | None = None
    lowerings: tuple[Lowering, ...] | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.max_kl is not None and not 0 <= self.max_kl < math.inf:
            raise InvalidInputError(f"max_kl is {self.max_kl}; it must be a number of 0 or more")
        if self.target is not None and (self.lowerings or self.fast_prefill is not None):
            raise InvalidInputError(
                f"the target {self.target} chooses the graphs itself: leave out lowerings and "
                f"fast_prefill"
            )

    def wants(self, lowering: Lowering) -> bool:
        """Return whether the bundle is to have graphs of a lowering."""
        return self.lowerings is None or lowering in self.lowerings

    def chosen(self) -> list[str]:
        """Return the names of the settings that are not None."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]
