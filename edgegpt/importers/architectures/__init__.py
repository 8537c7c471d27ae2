"""The families of models that can be imported, one file each, and those that cannot."""

from . import (
    biogpt,
    codegen,
    cohere,
    falcon,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gptj,
    jais2,
    llama,
    nemotron,
    olmo,
    opt,
    phi,
    qwen2,
    qwen3,
    stablelm,
    starcoder2,
)
from .refused import REFUSED

__all__ = ["FAMILIES", "REFUSED"]

MODULES = (
    llama,
    qwen2,
    qwen3,
    biogpt,
    codegen,
    cohere,
    falcon,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gptj,
    jais2,
    nemotron,
    olmo,
    opt,
    phi,
    stablelm,
    starcoder2,
)
FAMILIES = {family.model_type: family for module in MODULES for family in module.FAMILIES}
