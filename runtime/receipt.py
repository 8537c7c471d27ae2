"""The receipt: what an engine computed from a bundle's golden vectors, check by check."""

import json
from dataclasses import asdict, dataclass, field

from .compare import Difference

__all__ = ["COLUMNS", "RECEIPT_VERSION", "Check", "Receipt", "verdict"]

RECEIPT_VERSION = 1
COLUMNS = (
    "check",
    "positions",
    "max abs",
    "relative",
    "allowed",
    "KL",
    "same top-1",
    "first other token",
    "result",
)


def verdict(passed: bool) -> str:
    """Return the word for a result."""
    return "PASS" if passed else "FAIL"


@dataclass(frozen=True)
class Check:
    """One row of the receipt.

    `first_difference` is the first decoding step at which the engine would choose another token
    than PyTorch, and `margin` the reference's lead there; both None where no token differed.
    `by_position` is the largest error at each position of the text, relative to max |reference
    logit|; 0 where nothing was compared.
    """

    name: str
    difference: Difference
    tolerance: float
    passed: bool
    first_difference: int | None = None
    margin: float | None = None
    by_position: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return what a table shows of the check, under `COLUMNS`."""
        difference, other = self.difference, "-"
        if self.first_difference is not None:
            other = f"step {self.first_difference} (lead {self.margin:.1e})"
        return [
            self.name,
            str(difference.positions),
            f"{difference.max_abs:.1e}",
            f"{difference.relative:.1e}",
            f"{self.tolerance:.0e}",
            f"{difference.kl:.1e}",
            f"{difference.top1_agreement:.2%}",
            other,
            verdict(self.passed),
        ]


@dataclass(frozen=True)
class Receipt:
    """All checks of one graph on one engine."""

    bundle_id: str
    graph: str
    lowering: str
    precision: str
    engine: str
    engine_version: str
    device: str
    machine: str
    date: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether every check passed; an empty receipt has proved nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_json(self) -> str:
        """Return the receipt as JSON text."""
        body = {"receipt_version": RECEIPT_VERSION, "passed": self.passed, **asdict(self)}
        return json.dumps(body, indent=1) + "\n"
