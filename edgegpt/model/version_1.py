"""Settings of models as edgegpt 0.1 wrote them: fewer switches, and some under other names."""

from typing import Any

__all__ = ["from_version_1"]


def from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a config.json of version 1 under today's names."""
    found = dict(values)
    bias = found.pop("bias", True)
    found |= {"norm_bias": bias, "proj_bias": bias, "ff_bias": bias}
    if found.get("activation") == "swiglu":
        found |= {"activation": "silu", "gated": True}
    scale = found.pop("attention_scale", "head_dim")
    if scale == "n_embd":
        found["attention_scale"] = found["n_embd"] ** -0.5
    elif scale != "head_dim":
        found["attention_scale"] = scale  # refused by the check of types
    return found
