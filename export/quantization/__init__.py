"""Weight-only quantisation in blocks: the weights, how they are found, and what they cost.

`quantize.py` is the entry; `blocks.py` the format and rounding to nearest; `gptq.py` the better
method, whose inputs `calibration.py` collects; `quality.py` measures the loss, and `keep.py`
chooses what to leave in float32 where the loss is too large.
"""

from .blocks import BlockQuantized, round_to_nearest
from .calibration import cut_windows, own_windows, scored_windows
from .gptq import gptq
from .keep import keep_enough, layer_costs
from .quality import measure, with_weights
from .quantize import quantize, weight_names
from .within_budget import quantize_within_budget

__all__ = [
    "BlockQuantized",
    "cut_windows",
    "gptq",
    "keep_enough",
    "layer_costs",
    "measure",
    "own_windows",
    "quantize",
    "quantize_within_budget",
    "round_to_nearest",
    "scored_windows",
    "weight_names",
    "with_weights",
]
