"""Faults of a compiled engine: each changes a text before the compiler reads it.

The fault of a graph of the same name changes the PyTorch model in the same way.
"""

from dataclasses import dataclass

from edgegpt.runtime.engines.native.prepare import CONSTANTS

__all__ = ["NATIVE_FAULTS", "NativeFault"]


@dataclass(frozen=True)
class NativeFault:
    """A text in a file that another one replaces."""

    file: str
    old: str
    new: str


NATIVE_FAULTS = {
    "attention scale wrong by 1%": NativeFault(
        CONSTANTS, "attention_scale = ", "attention_scale = 1.01f * "
    ),
    "LayerNorm eps 1e-3": NativeFault(CONSTANTS, "epsilon = ", "epsilon = 0.00099f + "),
    "ReLU replaced by GELU": NativeFault(CONSTANTS, "Activation::relu", "Activation::gelu"),
    "tanh-GELU for erf-GELU": NativeFault(CONSTANTS, "Activation::gelu", "Activation::gelu_tanh"),
    "mask off by one: a token does not see itself": NativeFault(
        "attention.h", "behind = q.position[i] + 1 - block", "behind = q.position[i] - block"
    ),
    "ort: rotary pairs interleaved": NativeFault(
        "rotary.h",
        "x[i], second = x[pairs + i];\n        out[i] = first * cosines[i] - second * sines[i];\n"
        "        out[pairs + i] =",
        "x[2 * i], second = x[2 * i + 1];\n"
        "        out[2 * i] = first * cosines[i] - second * sines[i];\n        out[2 * i + 1] =",
    ),
}
