"""Graphs of a few nodes, and a weight in integers, for tests of passes."""

import numpy as np
import onnx_ir as ir
import torch

from edgegpt.export.quantization import BlockQuantized, round_to_nearest

__all__ = ["parsed", "product", "quantised"]


def parsed(text: str, **weights: np.ndarray) -> ir.Model:
    """Return a model from ONNX text, with `weights` as initializers instead of inputs."""
    opsets = '["" : 24, "com.microsoft" : 1]'
    model = ir.from_onnx_text(f"<ir_version: 10, opset_import: {opsets}> {text}")
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


def quantised(width: int = 32, block: int = 16, bits: int = 8) -> dict[str, BlockQuantized]:
    weight = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    return {"w": round_to_nearest(weight, bits, block)}


def product(width: int = 32) -> ir.Model:
    text = f"""agraph (float[B,T,{width}] x, float[{width},4] w) => (float[B,T,4] y) {{
        y = MatMul (x, w)
    }}"""
    return parsed(text, w=np.zeros((width, 4), dtype=np.float32))
