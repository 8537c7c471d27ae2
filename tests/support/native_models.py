"""Small models of every switch, packed and compiled for the native engine without an export."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from small_models import random_model, with_random_weights

from edgegpt.export.quantization.blocks import BlockQuantized, round_to_nearest
from edgegpt.export.quantization.quality import round_blocks
from edgegpt.model import GPT, GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import FileEntry, Manifest, Quality, Quantization, WeightEntry
from edgegpt.runtime.engines.native import prepare
from edgegpt.runtime.engines.native.compiler import Processor, find_compiler
from edgegpt.runtime.engines.native.constants import constants_of
from edgegpt.runtime.engines.native.library import Library, NativeModel, NativeRows
from edgegpt.runtime.engines.native.weights import pack_weights
from edgegpt.tensor_file import Layout, write_tensors

__all__ = [
    "CASES",
    "KINDS",
    "PAIRS",
    "PLAIN",
    "SOURCES",
    "bundle_of",
    "case",
    "compiled",
    "fed",
    "narrow",
    "opened",
    "pair",
    "quantised_bundle",
]

SOURCES = Path(__file__).parents[2] / "runtime" / "engines" / "native" / "source"
PLAIN = "-DEDGEGPT_PLAIN"
HERE = Processor()
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TABLES = ("embedding", "relative")  # which a bundle has as they are
NO_BIAS = {"proj_bias": False, "ff_bias": False, "norm_bias": False}
LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "silu", "gated": True, **NO_BIAS}
WINDOWS = {
    "layer_kinds": [
        {"window": 7, "rotary": [1.0, 0.1, 0.01], "rotary_factor": 1.25},
        {"window": 0, "rotary": []},
    ],
    "layer_kind": [0, 1],
}
SIZES = {"vocab_size": 97, "block_size": 300, "n_layer": 2, "n_head": 4, "n_embd": 64}
# Together, all switches of a model without an encoder, and sizes that fill no vector.
CASES: dict[str, dict[str, Any]] = {
    "learned positions": {"head_bias": True, "qkv_bias": True},
    "llama": {**LLAMA, "n_kv_head": 2, "n_ff": 176},
    "odd sizes": {
        **{"vocab_size": 33, "n_embd": 39, "n_head": 3, "n_ff": 50, "activation": "gelu"},
        **{"position": "sinusoidal", "norm_placement": "post", "embedding_norm": True},
        **{"norm_bias": False, "residual_scale": 0.5},
    },
    "windows and caps": {
        **{**LLAMA, "activation": "gelu_tanh", "n_kv_head": 1, "head_dim": 24},
        **{"norm_placement": "sandwich", "attention_softcap": 4.0, "logit_softcap": 3.0},
        **{"embedding_scale": 8.0, "tie_embeddings": True, "qk_norm": "head", **WINDOWS},
    },
    "parallel": {
        **{"parallel": True, "position": "rope", "activation": "gelu_tanh", "head_bias": True},
        **{"n_layer": 3, "n_kv_head": 2, "head_dim": 10, "attention_scale": 0.2},
    },
    "norms of outputs": {
        **{**LLAMA, "gated": False, "activation": "relu2", "norm_placement": "output"},
        **{"qk_norm": "full", "n_kv_head": 2, "position": "none", "final_norm": False},
    },
    "biases by distance": {
        **{"position": "relative", "relative_shared": False, "n_kv_head": 2, "block_size": 301},
        **{"activation": "relu", "norm": "rmsnorm", **NO_BIAS},
    },
    "one wide head": {**LLAMA, "n_head": 1, "head_dim": 272, "activation": "relu"},
}


# Encoder, decoder, and whether they share an embedding; together, all switches of an encoder.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "post-norm": (
        {"norm_placement": "post", "final_norm": False, "qkv_bias": True, "n_ff": 80},
        {
            **{"norm_placement": "post", "final_norm": False, "qkv_bias": True, "n_layer": 3},
            **{"tie_embeddings": True, "head_bias": True, "embedding_norm": True},
        },
        True,
    ),
    "pre-norm": (
        {**LLAMA, "position": "sinusoidal", "embedding_scale": 8.0, "qk_norm": "head"},
        {**LLAMA, "position": "none", "n_layer": 1, "tie_embeddings": True},
        True,
    ),
    "biases by distance": (
        {**LLAMA, "position": "relative", "n_layer": 3},
        {
            **{**LLAMA, "position": "relative", "tie_embeddings": True},
            **{"relative_buckets": 8, "relative_distance": 140, "block_size": 200},
        },
        True,
    ),
    "unlike stacks": (
        {
            **{"n_embd": 39, "n_head": 3, "position": "none", "norm_placement": "sandwich"},
            **{"parallel": True, "vocab_size": 31, "activation": "gelu", "qk_norm": "full"},
        },
        {
            **{"n_embd": 39, "n_head": 4, "n_kv_head": 2, "head_dim": 24, "position": "rope"},
            **{"parallel": True, "norm_placement": "output", "block_size": 200, "n_ff": 17},
            **{"attention_softcap": 4.0, "attention_scale": 0.3, "residual_scale": 0.5},
        },
        False,
    ),
}


def pair(name: str) -> Seq2Seq:
    """Return the encoder-decoder of a case, with random weights."""
    encoder, decoder, shared = PAIRS[name]
    stacks = (GPTConfig.from_dict({**SIZES, **each}) for each in (encoder, decoder))
    return with_random_weights(Seq2Seq(Seq2SeqConfig(*stacks, shared_embedding=shared)))


def case(name: str) -> GPT:
    """Return the model of a case, with random weights."""
    return random_model(GPTConfig.from_dict({**SIZES, **CASES[name]}))


def narrow(model: GPT | Seq2Seq, kind: str) -> None:
    """Round the weights to a kind, and if it is bfloat16, what they are multiplied by."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(KINDS[kind]).float()
    for module in model.modules():
        if kind == "BF16" and isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(_to_bfloat16)


def _to_bfloat16(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return inputs[0].bfloat16().to(inputs[0].dtype)


def bundle_of(
    model: GPT | Seq2Seq,
    folder: Path,
    integers: dict[str, BlockQuantized] | None = None,
    kind: str = "F32",
) -> Bundle:
    """Write the weights of a model as an export does, and return a bundle without any graph."""
    tied = model.tied_names()
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        is_matrix = value.dim() == 2 and not any(table in name for table in TABLES)
        if name in tied or (integers and name in integers):
            continue
        arrays[name] = (value.T if is_matrix else value).contiguous().numpy()
    for name, weight in (integers or {}).items():
        arrays[name], arrays[f"{name}.scales"] = weight.packed, weight.scales
    if kind == "F16":
        arrays = {name: each.astype(np.float16) for name, each in arrays.items()}
    if kind == "BF16":
        arrays = {name: each.view(np.uint32) >> 16 for name, each in arrays.items()}
        arrays = {name: each.astype(np.uint16) for name, each in arrays.items()}
    folder.mkdir(parents=True)
    path = folder / "weights.safetensors"
    kinds = {name: "U8" if each.dtype == np.uint8 else kind for name, each in arrays.items()}
    layouts = {name: Layout(kinds[name], each.shape) for name, each in arrays.items()}
    written = write_tensors(path, layouts, lambda name: arrays[name])
    entries = {
        name: WeightEntry(each.dtype, list(each.shape), each.offset, each.size, each.sha256)
        for name, each in written.entries.items()
    }
    files = {path.name: FileEntry(path.stat().st_size, "")}
    manifest = Manifest(
        *(model.config.to_dict(), "float32", [], path.name, entries, files, {}),
        quantization=_quantization(integers) if integers else None,
    )
    return Bundle(folder, manifest)


def _quantization(integers: dict[str, BlockQuantized]) -> Quantization:
    finer = [name for name, weight in integers.items() if weight.bits == 8]
    return Quantization("rtn", 4, 32, finer, 16, [], Quality(0.0, 1.0, 1.0, 1), 1.0, 1.0)


def quantised_bundle(model: GPT | Seq2Seq, folder: Path, bits: Sequence[int], block: int) -> Bundle:
    """Return a bundle of integers, in turn of these numbers of bits, and finer blocks for 8 bits.
    A matrix of 32 bits stays as it is.

    The model becomes the reference: its layers multiply by the same integers, and round what they
    read as ONNX Runtime's kernels do.
    """
    tied, integers = model.tied_names(), {}
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    for index, (layer, linear) in enumerate(linears):
        name = tied.get(f"{layer}.weight", f"{layer}.weight")
        own = bits[index % len(bits)]
        if own == 32:  # stays as it is
            continue
        size = block if own == 4 else max(16, block // 2)
        integers[name] = round_to_nearest(linear.weight, own, size)
        linear.weight.data = torch.from_numpy(integers[name].dequantized())
        linear.register_forward_pre_hook(partial(_round, size))
    decoder = model if isinstance(model, GPT) else model.decoder
    if decoder.config.tie_embeddings:
        decoder.token_embedding.weight.data = decoder.head.weight.data
    return bundle_of(model, folder, integers)


def _round(block: int, _: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return round_blocks(inputs[0], block)


def compiled(bundle: Bundle, *flags: str) -> Library:
    """Compile and pack into the bundle's own folder; quickly, so not as fast as it could be."""
    place = bundle.folder / f"engine{''.join(flags)}"
    place.mkdir()
    (place / prepare.CONSTANTS).write_text(constants_of(bundle.manifest))
    compiler, units, library = find_compiler(HERE), [SOURCES / "engine.cpp"], place / "engine.so"
    prepare.compile_library(compiler, HERE, units, place, library, ["-O1", *flags])
    if not (bundle.folder / "packed").exists():
        pack_weights(bundle, bundle.folder / "packed")
    return Library(library)


def opened(bundle: Bundle, *flags: str, threads: int = 1) -> NativeModel:
    """Compile, pack and open a bundle."""
    return compiled(bundle, *flags).open(bundle.folder / "packed", threads)


def fed(rows: NativeRows, row: int, ids: NDArray[np.int64], pieces: Sequence[int]) -> Any:
    """Feed a text to an empty row in pieces of these lengths; return all logits [T, V]."""
    found, past = [], 0
    for length in pieces:
        logits = np.empty((length, rows.vocab), dtype=np.float32)
        rows.step(
            np.array([row], dtype=np.int32),
            np.array([length], dtype=np.int32),
            np.array([past]),
            ids[past : past + length].copy(),
            np.arange(length, dtype=np.int32),
            logits,
        )
        found.append(logits)
        past += length
    return np.concatenate(found)
