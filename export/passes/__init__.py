"""Edits of an ONNX graph: one `onnx_ir` pass per file. Each reports whether it changed anything.

A pass checks its input graph in `requires` and its result in `ensures`.
"""

from .cast_weights import CastWeights
from .dequantize_weights import DequantizeWeights
from .feed_positions import FeedPositions
from .fold_weight_transposes import FoldWeightTransposes
from .fuse_skip_norms import FuseSkipNorms
from .quantize_activations import QuantizeActivations
from .quantize_weights import ROWS_SUFFIX, QuantizeWeights
from .share_dimensions import ShareDimensions
from .store_columns import StoreColumns
from .use_float_activations import UseFloatActivations

__all__ = [
    "ROWS_SUFFIX",
    "CastWeights",
    "DequantizeWeights",
    "FeedPositions",
    "FoldWeightTransposes",
    "FuseSkipNorms",
    "QuantizeActivations",
    "QuantizeWeights",
    "ShareDimensions",
    "StoreColumns",
    "UseFloatActivations",
]
