"""Weight-only quantisation in blocks: the format, the methods, and the measured loss.

`within_budget.py` is the entry point. It lets `smooth.py` even out what the layers read, and calls
`quantize.py`. `blocks.py` has the format and rounding to nearest. `gptq.py` has the better method;
`calibration.py` collects its inputs. `quality.py` measures the loss. If the loss is too large,
`keep.py` chooses the weights to quantise less, or to leave in float32. `stored.py` frees the memory
for the golden vectors.
"""

from .blocks import BlockQuantized, round_to_nearest, whole_rows
from .calibration import cut_windows, own_windows, scored_windows
from .gptq import gptq
from .keep import Ranking, layer_costs
from .quality import Dequantized, Yardstick, quantised
from .quantize import quantize, weight_names
from .smooth import smoothed
from .stored import StoredIntegers
from .within_budget import Quantised, quantize_within_budget

__all__ = [
    "BlockQuantized",
    "Dequantized",
    "Quantised",
    "Ranking",
    "StoredIntegers",
    "Yardstick",
    "cut_windows",
    "gptq",
    "layer_costs",
    "own_windows",
    "quantised",
    "quantize",
    "quantize_within_budget",
    "round_to_nearest",
    "scored_windows",
    "smoothed",
    "weight_names",
    "whole_rows",
]
