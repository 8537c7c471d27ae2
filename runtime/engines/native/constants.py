"""The constants of a native engine: the text of model.h, from a bundle's manifest."""

from dataclasses import fields, is_dataclass
from typing import Any

from ...bundle.manifest import Manifest
from .layout import Layout, Stack

__all__ = ["constants_of"]

HEADER = """// Made from the bundle {id}.
#pragma once

#include "description.h"

namespace edgegpt::model {{

inline constexpr std::uint64_t file_size = {size};
inline constexpr unsigned char hash[32] = {{{hash}}};

{stacks}
inline constexpr bool has_encoder = {has_encoder};

}}  // namespace edgegpt::model
"""
STACK = """struct {name} {{
{constants}

    static constexpr Layer layer[] = {{
{layers},
    }};
}};
"""
NO_ENCODER = "using Encoder = Decoder;  // which is never asked to encode\n"
NORMS = {"layernorm": "layer", "rmsnorm": "rms"}


def constants_of(manifest: Manifest) -> str:
    """Return the text of model.h for a bundle that `obstacle` allows.

    Raises:
        BundleError: if a weight is missing or has another shape than the model's.
    """
    layout = Layout(manifest)
    encoder = NO_ENCODER if layout.encoder is None else _stack("Encoder", layout.encoder)
    return HEADER.format(
        id=manifest.id,
        size=layout.size,
        hash=", ".join(str(byte) for byte in layout.hash),
        stacks=f"{_stack('Decoder', layout.decoder)}\n{encoder}",
        has_encoder=_text(layout.encoder is not None),
    )


def _stack(name: str, stack: Stack) -> str:
    lines = [f"    static constexpr {kind} {one} = {value};" for kind, one, value in _all(stack)]
    return STACK.format(
        name=name,
        constants="\n".join(lines),
        layers=",\n".join(f"        {_text(layer)}" for layer in stack.layers),
    )


def _all(stack: Stack) -> list[tuple[str, str, str]]:
    """Return type, name and value of each constant of a stack."""
    model = stack.model
    sizes = {
        "vocab": "vocab_size",
        "block_size": "block_size",
        "layers": "n_layer",
        "heads": "n_head",
        "kv_heads": "n_kv_head",
        "head_dim": "head_dim",
        "width": "n_embd",
        "inner": "n_ff",
    }
    floats = {
        "epsilon": "norm_eps",
        "attention_scale": "attention_scale",
        "attention_cap": "attention_softcap",
        "logit_cap": "logit_softcap",
        "embedding_scale": "embedding_scale",
        "residual_scale": "residual_scale",
    }
    switches = {"parallel": model["parallel"], "gated": model["gated"], "tied": stack.tied}
    return [
        *(("int", name, str(model[key])) for name, key in sizes.items()),
        *(("float", name, _text(float(model[key]))) for name, key in floats.items()),
        *(("bool", name, _text(value)) for name, value in switches.items()),
        ("NormKind", "norm", f"NormKind::{NORMS[model['norm']]}"),
        ("Activation", "activation", f"Activation::{model['activation']}"),
        ("QkNorm", "qk_norm", f"QkNorm::{model['qk_norm']}"),
        ("bool", "has_places", _text(model["position"] in ("learned", "sinusoidal"))),
        ("Table", "embedding", _text(stack.embedding)),
        ("Table", "places", _text(stack.places)),
        ("Norm", "norm_embedding", _text(stack.norm_embedding)),
        ("Norm", "norm_final", _text(stack.norm_final)),
        ("Matrix", "head", _text(stack.head)),
    ]


def _text(value: Any) -> str:
    """Return a value as C++ writes it; a class as its fields in order."""
    if is_dataclass(value):
        return "{" + ", ".join(_text(getattr(value, each.name)) for each in fields(value)) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"static_cast<float>({value!r})"
    return f"Kind::{value}" if isinstance(value, str) else str(value)
