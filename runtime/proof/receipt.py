"""The receipt: how an engine did on a bundle's golden vectors, check by check."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from ..bundle.manifest import Quality
from .compare import Difference

__all__ = [
    "CHOOSING",
    "COLUMNS",
    "MEANING",
    "RECEIPT_VERSION",
    "VERDICTS",
    "Check",
    "Outcome",
    "QualityCheck",
    "Receipt",
    "verdict",
]

RECEIPT_VERSION = 5
Outcome = Literal["passed", "failed", "pending"]
VERDICTS: dict[Outcome, str] = {"passed": "PASS", "failed": "FAIL", "pending": "PENDING"}
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

# How the names of those checks end that choose tokens as a generation does.
CHOOSING = ("decode", "continuation", "many rows")

MEANING = "relative: max abs / the largest logit; it must be at most what is allowed"


def verdict(passed: bool) -> str:
    """Return the word for a check's result."""
    return VERDICTS["passed" if passed else "failed"]


@dataclass(frozen=True)
class Check:
    """One row of the receipt.

    `first_difference` is the first decoding step at which the engine would choose another token
    than PyTorch, and `margin` is the reference's lead there; both are None if no token differed.
    `by_position` pairs each position that was compared with the largest error there, relative to
    max |reference logit|, in order.
    """

    name: str
    difference: Difference
    tolerance: float
    passed: bool
    first_difference: int | None = None
    margin: float | None = None
    by_position: list[tuple[int, float]] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the check as a table row with the columns `COLUMNS`."""
        difference, other = self.difference, "-"
        if self.first_difference is not None:
            other = f"step {self.first_difference} (lead {self.margin:.1e})"
        return [
            self.name,
            str(difference.positions),
            f"{difference.max_abs:.1e}",
            f"{difference.relative:.1e}",
            f"{self.tolerance:.1e}",
            f"{difference.kl:.1e}",
            f"{difference.top1_agreement:.2%}",
            other,
            verdict(self.passed),
        ]


@dataclass(frozen=True)
class QualityCheck:
    """The comparison of a quantised model, as this engine runs it, with the float32 model."""

    quality: Quality
    max_kl: float

    @property
    def passed(self) -> bool:
        """Whether the mean KL is within the budget of the export."""
        return self.quality.kl <= self.max_kl

    def sentence(self) -> str:
        """Return the figures in words."""
        quality = self.quality
        return (
            f"against float32, over {quality.tokens:,} held-out tokens: KL {quality.kl:.1e} "
            f"(allowed: {self.max_kl:.1e}), same top-1 {quality.top1_agreement:.2%}, "
            f"perplexity {quality.perplexity:.4g}"
        )


@dataclass(frozen=True)
class Receipt:
    """All checks of a bundle on one engine.

    The engine generates with `graph` and `lowering`. Checks whose names begin with another
    lowering, or with "exact", are of other ways to compute the same bundle. `pending` says why no
    engine of the machine can run the bundle. Then the engine's fields are empty, and only the
    checks that need no engine were made. `processor` is the kind of processor whose kernels ran,
    and "" if the engine's kernels do not depend on it.
    """

    bundle_id: str
    graph: str
    lowering: str
    precision: str
    engine: str
    engine_version: str
    device: str
    processor: str
    machine: str
    date: str
    checks: list[Check]
    quality: QualityCheck | None = None
    pending: str | None = None

    @property
    def outcome(self) -> Outcome:
        """Whether every check passed; "pending" if no engine could run the other checks yet."""
        good = self.quality is None or self.quality.passed
        if not (good and all(check.passed for check in self.checks)):
            return "failed"
        if self.pending is not None:
            return "pending"
        return "passed" if self.checks else "failed"  # an empty receipt has proved nothing

    @property
    def passed(self) -> bool:
        """Whether the engine is proved to compute the bundle."""
        return self.outcome == "passed"

    def to_json(self) -> str:
        """Return the receipt as JSON text."""
        results = {"outcome": self.outcome, "passed": self.passed}
        body = {"receipt_version": RECEIPT_VERSION, **results, **asdict(self)}
        return json.dumps(body, indent=1) + "\n"
