"""The families of models that can be imported, one file each."""

from . import (
    arcee,
    ernie,
    exaone,
    gemma,
    glm,
    granite,
    helium,
    llama,
    mistral,
    nanochat,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
)

__all__ = ["FAMILIES", "REFUSED"]

MODULES = (
    arcee,
    ernie,
    exaone,
    gemma,
    glm,
    granite,
    helium,
    llama,
    mistral,
    nanochat,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    seed_oss,
    smollm3,
)
FAMILIES = {family.model_type: family for module in MODULES for family in module.FAMILIES}

# Known families that cannot be imported, and why.
REFUSED = {
    "mixtral": "mixture of experts",
}
