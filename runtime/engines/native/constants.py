"""The constants of a native engine: the text of model.h, from a bundle's manifest."""

from dataclasses import fields, is_dataclass
from typing import Any

from ...bundle.manifest import Manifest
from .layout import Layout

__all__ = ["constants_of"]

HEADER = """// Made from the bundle {id}.
#pragma once

#include "description.h"

namespace edgegpt::model {{

{constants}

inline constexpr unsigned char hash[32] = {{{hash}}};

inline constexpr Layer layer[] = {{
{layers},
}};

}}  // namespace edgegpt::model
"""
NORMS = {"layernorm": "layer", "rmsnorm": "rms"}


def constants_of(manifest: Manifest) -> str:
    """Return the text of model.h for a bundle that `obstacle` allows.

    Raises:
        BundleError: if a weight is missing or has another shape than the model's.
    """
    layout = Layout(manifest)
    lines = [f"inline constexpr {kind} {name} = {value};" for kind, name, value in _all(layout)]
    return HEADER.format(
        id=layout.manifest.id,
        constants="\n".join(lines),
        hash=", ".join(str(byte) for byte in layout.hash),
        layers=",\n".join(f"    {_text(layer)}" for layer in layout.layers),
    )


def _all(layout: Layout) -> list[tuple[str, str, str]]:
    """Return type, name and value of each constant."""
    model = layout.model
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
    switches = {"parallel": "parallel", "gated": "gated", "tied": "tie_embeddings"}
    return [
        *(("int", name, str(model[key])) for name, key in sizes.items()),
        *(("float", name, _text(float(model[key]))) for name, key in floats.items()),
        *(("bool", name, _text(model[key])) for name, key in switches.items()),
        ("NormKind", "norm", f"NormKind::{NORMS[model['norm']]}"),
        ("Activation", "activation", f"Activation::{model['activation']}"),
        ("QkNorm", "qk_norm", f"QkNorm::{model['qk_norm']}"),
        ("bool", "has_places", _text(model["position"] in ("learned", "sinusoidal"))),
        ("std::uint64_t", "file_size", str(layout.size)),
        ("Table", "embedding", _text(layout.embedding)),
        ("Table", "places", _text(layout.places)),
        ("Norm", "norm_embedding", _text(layout.norm_embedding)),
        ("Norm", "norm_final", _text(layout.norm_final)),
        ("Matrix", "head", _text(layout.head)),
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
