"""Tiny models as bundles without graphs, and as libraries of the native engine.

An export takes seconds, most of them for graphs, which the native engine does not read. So the
weights are written here, as the exporter lays them out.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_models import random_model
from torch import Tensor, nn

from edgegpt.export.layered import linears_of
from edgegpt.export.quantization.blocks import round_to_nearest
from edgegpt.export.quantization.quality import round_blocks
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import FileEntry, Manifest, Quality, Quantization
from edgegpt.runtime.engines.native.compiler import Compiler, Processor, compile_library
from edgegpt.runtime.engines.native.compiler import find_compiler
from edgegpt.runtime.engines.native.constants import constants_of
from edgegpt.runtime.engines.native.library import Library
from edgegpt.runtime.engines.native.prepare import CONSTANTS, SOURCES
from edgegpt.tensor_file import Layout, layout_of, raw_bytes, write_tensors

__all__ = ["FLAVOURS", "Flavour", "Made", "compiled", "made"]

WEIGHTS = "weights.safetensors"
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FINER_BLOCK = 16


@dataclass(frozen=True)
class Flavour:
    """A precision.

    Attributes:
        precision: as in the manifest.
        block: inputs of a block of integers.
        mixed: whether every third matrix is finer, and every third is in float32, as the exporter
            may choose.
    """

    precision: str
    block: int = 32
    mixed: bool = False


FLAVOURS = st.builds(
    Flavour,
    st.sampled_from(["float32", "float16", "bfloat16", "int8", "int4"]),
    st.sampled_from([16, 32, 64, 128]),
    st.booleans(),
)


@dataclass(frozen=True)
class Made:
    """A bundle, and the model in float64 that computes what an engine has to compute of it."""

    bundle: Bundle
    model: GPT


class _Writer:
    """Collects the tensors of a bundle; the model gets the values that they stand for."""

    def __init__(self, model: GPT, flavour: Flavour) -> None:
        self.model, self.flavour = model, flavour
        self.tensors: dict[str, Tensor] = {}
        self.finer: list[str] = []
        self.bits = {"int8": 8, "int4": 4}.get(flavour.precision)
        self.linears = linears_of(model)
        self.matrices = {model.tied_names().get(name, name) for name in self.linears}

    def write(self) -> None:
        """Convert all parameters."""
        for index, (name, parameter) in enumerate(self.model.named_parameters()):
            chosen = index % 3 if self.flavour.mixed else 1
            if self.bits and name in self.matrices and chosen:
                self._integers(name, parameter, finer=chosen == 2)
            else:
                self._floats(name, parameter, wide=chosen == 0)

    def _floats(self, name: str, parameter: nn.Parameter, *, wide: bool) -> None:
        dtype = torch.float32 if wide else TYPES.get(self.flavour.precision, torch.float32)
        parameter.data = parameter.data.to(dtype)
        by_inputs = name in self.linears  # a tied table is stored by rows
        self.tensors[name] = parameter.data.T.contiguous() if by_inputs else parameter.data

    def _integers(self, name: str, parameter: nn.Parameter, *, finer: bool) -> None:
        bits, block = (8, FINER_BLOCK) if finer else (self.bits, self.flavour.block)
        found = round_to_nearest(parameter.data, bits, block, symmetric=True)
        parameter.data = torch.from_numpy(found.dequantized())
        self.tensors[name] = torch.from_numpy(found.packed)
        self.tensors[f"{name}.scales"] = torch.from_numpy(found.scales)
        if finer:
            self.finer.append(name)
        for own, linear in self.linears.items():
            if self.model.tied_names().get(own, own) == name:
                linear.register_forward_pre_hook(lambda _, x: round_blocks(x[0], block))


def made(config: GPTConfig, flavour: Flavour, folder: Path, seed: int = 0) -> Made:
    """Write a random model to a new folder, as a bundle of weights alone."""
    folder.mkdir(parents=True)
    model = random_model(config, seed)
    writer = _Writer(model, flavour)
    writer.write()
    layouts = {name: layout_of(tensor) for name, tensor in writer.tensors.items()}
    path = folder / WEIGHTS
    written = write_tensors(path, layouts, lambda name: raw_bytes(writer.tensors[name]))
    quantization = Quantization(
        *("rtn", writer.bits or 8, flavour.block, writer.finer, FINER_BLOCK, []),
        *(Quality(0.0, 1.0, 1.0, 1), 1.0, 1.0),
    )
    manifest = Manifest(
        model=config.to_dict(),
        precision=flavour.precision,  # type: ignore[arg-type]
        graphs=[],
        weights_file=WEIGHTS,
        weights=written.entries,
        files={WEIGHTS: FileEntry(path.stat().st_size, written.sha256)},
        versions={},
        quantization=quantization if writer.bits else None,
    )
    return Made(Bundle(folder, manifest), model.double())


@dataclass(frozen=True)
class _With(Compiler):
    """A compiler with further options, which come last and so overrule others."""

    options: tuple[str, ...] = ()

    def flags(self, processor: Processor) -> list[str]:
        return [*super().flags(processor), *self.options]


def compiled(bundle: Bundle, folder: Path, *options: str) -> Library:
    """Compile the engine of a bundle with further options, in a new folder."""
    folder.mkdir()
    (folder / CONSTANTS).write_text(constants_of(bundle.manifest))
    found = find_compiler(Processor())
    compiler = _With(found.command, found.version, found.is_zig, options)
    sources = sorted(SOURCES.glob("*.cpp"))
    compile_library(compiler, Processor(), sources, folder, folder / "engine.so")
    return Library(folder / "engine.so")
