"""Export a Llama checkpoint for ExecuTorch and XNNPACK: python convert/executorch_.py HF OUT FORMAT.

The program is what `export_llm` makes with its settings for XNNPACK; only the quantisation differs.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from executorch.examples.models.llama.export_llama_lib import export_llama
from executorch.extension.llm.export.config import llm_config as settings
from safetensors.torch import load_file

LONGEST = 768  # tokens in the cache; all measurements fit in

# int8 has a scale a row and int4 one for 32 weights, both with int8 activations.
# The configuration refuses "8da8w", which the quantiser behind it knows.
settings.QuantizationConfig.QMODE_OPTIONS.append("8da8w")
QUANTIZATION = {
    "float32": settings.QuantizationConfig(),
    "int8": settings.QuantizationConfig(qmode="8da8w", group_size=0, embedding_quantize="8,0"),
    "int4": settings.QuantizationConfig(qmode="8da4w", group_size=32, embedding_quantize="4,32"),
}

# Meta's names, which the exporter reads, of the tensors of a layer.
NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def in_pairs(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder a head's rows: Meta rotates neighbours, Hugging Face the first and second half."""
    columns = weight.shape[1]
    halves = weight.view(-1, 2, head_dim // 2, columns)  # (H*D, C) -> (H, 2, D/2, C)
    return halves.transpose(1, 2).reshape(-1, columns)  # (H, D/2, 2, C) -> (H*D, C)


def meta_tensors(config: dict, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the checkpoint's tensors with Meta's names and order."""
    embedding = tensors["model.embed_tokens.weight"]
    made = {
        "tok_embeddings.weight": embedding,
        "norm.weight": tensors["model.norm.weight"],
        "output.weight": tensors.get("lm_head.weight", embedding),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, meta in NAMES.items():
            weight = tensors[f"model.layers.{layer}.{name}.weight"]
            if name.endswith(("q_proj", "k_proj")):
                weight = in_pairs(weight, config["head_dim"])
            made[f"layers.{layer}.{meta}.weight"] = weight
    return made


def meta_params(config: dict) -> dict:
    """Return the shape as the exporter's `params.json` gives it."""
    return {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "hidden_dim": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_parameters"]["rope_theta"],
    }


def export(checkpoint: Path, out: Path, format_name: str) -> None:
    """Write `model.pte`."""
    config = json.loads((checkpoint / "config.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        weights, params = Path(folder) / "weights.pth", Path(folder) / "params.json"
        torch.save(meta_tensors(config, load_file(checkpoint / "model.safetensors")), weights)
        params.write_text(json.dumps(meta_params(config)))
        wanted = settings.LlmConfig(
            base=settings.BaseConfig(
                model_class=settings.ModelType.llama3,
                checkpoint=str(weights),
                params=str(params),
                metadata='{"get_bos_id": 0, "get_eos_ids": [0]}',
            ),
            model=settings.ModelConfig(use_kv_cache=True, use_sdpa_with_kv_cache=True),
            export=settings.ExportConfig(
                max_seq_length=LONGEST,
                max_context_length=LONGEST,
                output_name=str((out / "model.pte").resolve()),
            ),
            quantization=QUANTIZATION[format_name],
            backend=settings.BackendConfig(
                xnnpack=settings.XNNPackConfig(enabled=True, extended_ops=True)
            ),
        )
        export_llama(wanted)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
