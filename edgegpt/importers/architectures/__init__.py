"""The families of models that can be imported, one file each."""

from . import llama, qwen2, qwen3

__all__ = ["FAMILIES", "REFUSED"]

FAMILIES = {
    family.model_type: family for module in (llama, qwen2, qwen3) for family in module.FAMILIES
}

# Known families that cannot be imported, and why.
REFUSED = {
    "mixtral": "mixture of experts",
}
