"""The plan of a bench: which batches and depths to measure, how often, with which settings."""

from dataclasses import dataclass, field

from ..engines.options import DEFAULTS, EngineOptions
from ..errors import InvalidInputError
from ..generation.sampling import Sampling
from ..quantity import quantity

__all__ = ["Plan"]

DEFAULT_TOKENS = 64
SHORT_PROMPT = 32  # tokens; the smallest default depth


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        repeats: timed rounds, after one round to warm up.
        tokens: decoding steps of a repeat; None is 64, or half the context if that is less.
        depths: prompt lengths; None is 32, a quarter and half of the context, and all of it less
            the decoding steps.
        batches: numbers of rows.
        context: tokens that the cache holds; None is the model's block size.
        sampling: how to choose tokens.
        engine: options of the engine; its threads of None mean one per fast core.
    """

    repeats: int = 5
    tokens: int | None = None
    depths: list[int] | None = None
    batches: list[int] = field(default_factory=lambda: [1, 4])
    context: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    engine: EngineOptions = DEFAULTS

    def __post_init__(self) -> None:
        for name in ("repeats", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError(f"{name} is {value}; it must be at least 1")
        for name in ("depths", "batches"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                raise InvalidInputError(f"{name} must be numbers of at least 1, not {values}")

    def steps(self, context: int) -> int:
        """Return the decoding steps of a repeat."""
        return self.tokens or max(min(DEFAULT_TOKENS, context // 2), 1)

    def cells(self, context: int) -> list[tuple[int, int]]:
        """Return every pair of batch and depth; refuse depths that do not fit the context."""
        most = context - self.steps(context)
        if most < 1:
            raise InvalidInputError(
                f"the context of {quantity(context, 'token')} has no room for a prompt and "
                f"{quantity(self.steps(context), 'decoded token')}"
            )
        depths = self.depths
        if depths is None:
            spread = (SHORT_PROMPT, context // 4, context // 2, most)
            depths = [depth for depth in spread if 1 <= depth <= most]
        if max(depths) > most:
            raise InvalidInputError(
                f"a prompt of {quantity(max(depths), 'token')} and {self.steps(context)} "
                f"decoded ones do not fit the context of {context}; choose depths of at most {most}"
            )
        return [
            (batch, depth) for batch in sorted(set(self.batches)) for depth in sorted(set(depths))
        ]
