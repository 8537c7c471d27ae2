"""What can be chosen of an export, besides its precision."""

from dataclasses import dataclass, fields
from typing import Literal

__all__ = ["AUTO", "ExportSettings"]

AUTO: Literal["auto"] = "auto"


@dataclass(frozen=True)
class ExportSettings:
    """None leaves a choice to the recipe; a choice that a precision does not offer is refused.

    Attributes:
        keep_fp32: layers to leave in float32, by name or by the beginning of it, up to a dot. In
            float16 those that would overflow are added to them. "auto" stands for the fewest that
            the budget of int8 and int4 needs.
        method: "rtn" rounds to nearest, "gptq" is better for int4; None: the usual one.
        calibration: text for "gptq", none of which should be held-out text; None lets the model
            write its own.
        max_kl: largest mean KL to float32 per token, in nats; None: `proof.quality.BUDGETS`.
        fast_prefill: whether to add a graph, and an int8 copy of the weights, that feed prompts
            faster; None: yes.
    """

    keep_fp32: Literal["auto"] | tuple[str, ...] | None = None
    method: Literal["rtn", "gptq"] | None = None
    calibration: str | None = None
    max_kl: float | None = None
    fast_prefill: bool | None = None

    def chosen(self) -> list[str]:
        """Return the names of the settings that were chosen."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]
