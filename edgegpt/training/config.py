"""The settings of a training run, and its learning-rate schedule."""

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from ..errors import InvalidInputError
from ..settings import check_types, from_table

__all__ = ["TrainConfig", "learning_rate_at"]

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. An unknown key or an impossible value is refused."""

    seed: Annotated[int, "of the weights, the batches and the dropout"] = 1337
    batch_size: Annotated[int, "sequences per batch and process"] = 64
    batch_tokens: Annotated[int, "of pairs: tokens per batch and process, padding included"] = 4096
    gradient_accumulation_steps: Annotated[int, "batches whose gradients add up to a step's"] = 1
    max_steps: Annotated[int, "steps until the learning rate has come down"] = 5000
    minutes: Annotated[float, "end after these minutes, if they come first; 0: no limit"] = 0.0
    schedule: Annotated[
        Literal["cosine", "inverse_sqrt"], "how the learning rate falls after its peak"
    ] = "cosine"
    learning_rate: Annotated[float, "peak learning rate"] = 1e-3
    min_learning_rate: Annotated[float, "learning rate that the cosine ends at"] = 1e-4
    warmup_steps: Annotated[int, "steps until the peak"] = 100
    weight_decay: Annotated[float, "AdamW's decay of matrices and embeddings"] = 0.1
    beta1: Annotated[float, "AdamW's decay of the mean"] = 0.9
    beta2: Annotated[float, "AdamW's decay of the variance"] = 0.99
    label_smoothing: Annotated[float, "of pairs: share of a label given to all tokens alike"] = 0.0
    grad_clip: Annotated[float, "largest norm of the gradient"] = 1.0
    eval_interval: Annotated[int, "steps between evaluations, samples and saves"] = 250
    eval_windows: Annotated[int, "validation windows per evaluation, at most"] = 1024
    sample_tokens: Annotated[int, "tokens of the sample at each evaluation"] = 120
    log_interval: Annotated[int, "steps between lines in metrics.jsonl"] = 10
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], "of matrix products; auto: bfloat16 where fast"
    ] = "auto"
    save_dtype: Annotated[
        Literal["float32", "float16"], "of model.safetensors; the training state stays float32"
    ] = "float32"

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in self.to_dict().items():
            if not isinstance(value, str) and not (math.isfinite(value) and value >= 0):
                raise InvalidInputError(f"{name} is {value}; it must be 0 or more")
        for name in (
            "batch_size",
            "batch_tokens",
            "gradient_accumulation_steps",
            "max_steps",
            "eval_interval",
            "eval_windows",
            "log_interval",
        ):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed > LARGEST_SEED:
            raise InvalidInputError(f"seed is {self.seed}; it must be at most {LARGEST_SEED}")
        if self.min_learning_rate > self.learning_rate:
            raise InvalidInputError("min_learning_rate is above learning_rate")
        if self.grad_clip == 0:
            raise InvalidInputError("grad_clip is 0, which would stop all learning; try 1.0")
        if not self.label_smoothing < 1:
            raise InvalidInputError(
                f"label_smoothing is {self.label_smoothing}; it must be below 1"
            )
        if not (self.beta1 < 1 and self.beta2 < 1):
            raise InvalidInputError("beta1 and beta2 must be below 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Build a config from parsed JSON or TOML; the error names unknown keys."""
        return from_table(cls, values, "training")

    def to_dict(self) -> dict[str, Any]:
        """Return all settings."""
        return asdict(self)


def learning_rate_at(step: float, config: TrainConfig) -> float:
    """Return the rate of `step`, counted from 1: linear warm-up, then the schedule's decay.

    That is half a cosine down to the lowest rate, or the inverse root of the step (Vaswani et al.
    2017, section 5.3, whose peak is at (n_embd * warmup_steps) ** -0.5).
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(1, config.warmup_steps) / step)
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
