"""Export a Hugging Face checkpoint with edgegpt: python convert/edgegpt_.py HF OUT FORMAT SHAPE.

The weights are renamed into a checkpoint of the preset `SHAPE`, so that edgegpt computes the same
model as its peers. Biases that only one of the two sides has are zero in a fresh model.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from edgegpt.checkpoint import save_config, save_weights
from edgegpt.model import GPT, GPTConfig
from edgegpt.presets import load_preset

# The measurements need 512 + 129 tokens; a longer block only makes the export's proof longer.
CONTEXT = 768
ANY_LOSS = "1e9"  # the quality of random weights means nothing, so the gate lets all pass

GPT2_LAYER = {
    "norm_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.proj": "attn.c_proj",
    "norm_2": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
LLAMA_LAYER = {
    "norm_1": "input_layernorm",
    "attention.proj": "self_attn.o_proj",
    "norm_2": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def from_gpt2(model: GPT, source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under edgegpt's names; transformers stores GPT-2's matrices [in, out]."""
    state = {
        "token_embedding.weight": source["transformer.wte.weight"],
        "position_embedding.weight": source["transformer.wpe.weight"][: model.config.block_size],
        "norm_final.weight": source["transformer.ln_f.weight"],
        "norm_final.bias": source["transformer.ln_f.bias"],
        "head.weight": source.get("lm_head.weight", source["transformer.wte.weight"]),
    }
    for layer in range(model.config.n_layer):
        for ours, theirs in GPT2_LAYER.items():
            for kind in ("weight", "bias"):
                tensor = source[f"transformer.h.{layer}.{theirs}.{kind}"]
                state[f"blocks.{layer}.{ours}.{kind}"] = tensor.T
    return state


def from_llama(model: GPT, source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under edgegpt's names, with queries, keys and values in one matrix."""
    state = {
        "token_embedding.weight": source["model.embed_tokens.weight"],
        "norm_final.weight": source["model.norm.weight"],
        "head.weight": source.get("lm_head.weight", source["model.embed_tokens.weight"]),
    }
    for layer in range(model.config.n_layer):
        prefix = f"model.layers.{layer}"
        for ours, theirs in LLAMA_LAYER.items():
            state[f"blocks.{layer}.{ours}.weight"] = source[f"{prefix}.{theirs}.weight"]
        parts = [source[f"{prefix}.self_attn.{name}_proj.weight"] for name in "qkv"]
        state[f"blocks.{layer}.attention.qkv.weight"] = torch.cat(parts)
    return state


def fit(model: GPT, state: dict[str, Tensor]) -> None:
    """Load `state`; either side may lack a bias only if that bias is zero."""
    wanted = model.state_dict()
    for name in set(state) - set(wanted):
        if not name.endswith("bias") or state[name].any():
            raise SystemExit(f"the preset has no {name}")
    for name in set(wanted) - set(state):
        if not name.endswith("bias") or wanted[name].any():
            raise SystemExit(f"the checkpoint has nothing for {name}")
    model.load_state_dict({name: state.get(name, zero) for name, zero in wanted.items()})


def write_checkpoint(source: Path, preset: str, folder: Path) -> None:
    """Write the checkpoint folder that `edgegpt export` reads."""
    settings = load_preset(preset).model
    settings["block_size"] = min(settings["block_size"], CONTEXT)
    model = GPT(GPTConfig.from_dict(settings))
    rename = from_gpt2 if model.config.position == "learned" else from_llama
    fit(model, rename(model, load_file(source / "model.safetensors")))
    save_config(folder, model.config)
    save_weights(folder, model, torch.float32)


if __name__ == "__main__":
    source, out, format_name, shape = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(source), shape, Path(folder))
        command = [sys.executable, "-m", "edgegpt", "export", folder, "--out", out]
        command += ["--precision", format_name]
        if format_name.startswith("int"):
            command += ["--method", "rtn", "--max-kl", ANY_LOSS]
        sys.exit(subprocess.run(command, check=False).returncode)
