"""How much memory a training step needs, so that a run that cannot fit is refused at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgegpt.model import GPTConfig
from edgegpt.runtime.machine import available_memory

from ..errors import InvalidInputError

__all__ = ["Load", "check_memory", "needed_memory"]

# Bytes, fitted by hand to peaks on a CPU: shakespeare-char with 16, gpt2-124m with 2, llama-135m
# with 1 and 2 sequences, in float32 and bfloat16, with and without dropout. The results are 0.9 to
# 1.4 times those peaks.
PER_WEIGHT = 16  # itself, its gradient, and AdamW's two means, in float32
PER_VALUE = {torch.float32: 3.5, torch.bfloat16: 2.5}  # that a layer keeps for the backward pass
PER_SCORE = 18  # of attention; only where PyTorch has no fused kernel
PER_LOGIT = 13


@dataclass(frozen=True)
class Load:
    """A stack, how many tokens of a batch it reads, and whether they get logits."""

    config: GPTConfig
    tokens: int
    has_head: bool = True

    def kept(self, device: torch.device, dtype: torch.dtype) -> float:
        """About how many bytes PyTorch keeps until the backward pass."""
        config = self.config
        heads = (config.n_head + 2 * config.n_kv_head) * config.head_dim
        wide = config.n_ff * (4 if config.gated else 2)
        one = PER_VALUE[dtype] * config.n_layer * (8 * config.n_embd + 2 * heads + wide)
        if device.type == "cpu" and (config.dropout or config.position == "relative"):
            one += PER_SCORE * config.n_layer * config.n_head * config.block_size
        return self.tokens * (one + (PER_LOGIT * config.vocab_size if self.has_head else 0))


def needed_memory(
    parameters: int, loads: Sequence[Load], device: torch.device, dtype: torch.dtype
) -> float:
    """Return about how many bytes a step takes whose products are in `dtype`."""
    return PER_WEIGHT * parameters + sum(load.kept(device, dtype) for load in loads)


def check_memory(
    parameters: int, loads: Sequence[Load], device: torch.device, dtype: torch.dtype, option: str
) -> None:
    """Refuse a step that does not fit the memory; `option` is what makes a batch smaller.

    Raises:
        InvalidInputError: if it does not.
    """
    there = available_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    needed = needed_memory(parameters, loads, device, dtype)
    if there is None or needed <= there:
        return
    told = f"a training step needs about {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are free"
    if PER_WEIGHT * parameters >= there:
        raise InvalidInputError(f"{told}: the weights alone are too many; use a smaller model")
    parts = -(-(needed - PER_WEIGHT * parameters) // (there - PER_WEIGHT * parameters))
    raise InvalidInputError(
        f"{told}: with --{option} divided by {parts:.0f} and --gradient-accumulation-steps times "
        f"{parts:.0f} it fits, and learns the same"
    )
