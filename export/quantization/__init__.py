"""Weight-only quantisation in blocks: the format, the methods, and the measured loss.

`within_budget.py` is the entry point, and calls `quantize.py`. `blocks.py` has the format and
rounding to nearest. `gptq.py` has the better method; `calibration.py` collects its inputs.
`quality.py` measures the loss. If the loss is too large, `keep.py` chooses the weights to leave in
float32.
"""

from .blocks import BlockQuantized, round_to_nearest
from .calibration import cut_windows, own_windows, scored_windows
from .gptq import gptq
from .keep import keep_enough, layer_costs
from .quality import Dequantized, Yardstick, with_weights
from .quantize import quantize, weight_names
from .within_budget import method_of, quantize_within_budget

__all__ = [
    "BlockQuantized",
    "Dequantized",
    "Yardstick",
    "cut_windows",
    "gptq",
    "keep_enough",
    "layer_costs",
    "method_of",
    "own_windows",
    "quantize",
    "quantize_within_budget",
    "round_to_nearest",
    "scored_windows",
    "weight_names",
    "with_weights",
]
