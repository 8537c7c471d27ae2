"""Write a Hugging Face checkpoint as GGUF: python convert/llama_cpp_.py HF OUT FORMAT.

llama.cpp's own converter needs a tokenizer that it knows. The tensors are therefore written here,
under the names of its architectures "gpt2" and "llama". Its "gpt2" has GELU built in, so the shape
with ReLU runs with GELU there; llama.cpp's GELU reads a table and costs no more.
"""

import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

FTYPES = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}

GPT2_LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gpt2_tensors(config: dict, source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return llama.cpp's tensors; transformers stores GPT-2's matrices as [in, out]."""
    tensors = {
        "token_embd.weight": source["transformer.wte.weight"],
        "position_embd.weight": source["transformer.wpe.weight"],
        "output_norm.weight": source["transformer.ln_f.weight"],
        "output_norm.bias": source["transformer.ln_f.bias"],
    }
    if not config["tie_word_embeddings"]:
        tensors["output.weight"] = source["lm_head.weight"]
    for layer in range(config["n_layer"]):
        for theirs, ours in GPT2_LAYER.items():
            for kind in ("weight", "bias"):
                tensor = source[f"transformer.h.{layer}.{theirs}.{kind}"]
                tensors[f"blk.{layer}.{ours}.{kind}"] = np.ascontiguousarray(tensor.T)
    return tensors


def llama_tensors(config: dict, source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return llama.cpp's tensors. Its "llama" rotates neighbouring pairs; transformers, halves."""
    tensors = {
        "token_embd.weight": source["model.embed_tokens.weight"],
        "output_norm.weight": source["model.norm.weight"],
    }
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in LLAMA_LAYER.items():
            tensor = source[f"model.layers.{layer}.{theirs}.weight"]
            if ours in heads:
                rows, width = tensor.shape
                halves = tensor.reshape(heads[ours], 2, -1, width)  # (H, 2, D/2, C)
                tensor = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, width)
            tensors[f"blk.{layer}.{ours}.weight"] = tensor
    return tensors


def write_gguf(config: dict, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write a float32 file without a vocabulary."""
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(path, architecture)
    if architecture == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(config["n_inner"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_dimension_count(config["head_dim"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(whole: Path, path: Path, format_name: str) -> None:
    """Write the float32 file `whole` in another format, with llama.cpp's own quantiser."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[format_name], 1
    code = llama_cpp.llama_model_quantize(str(whole).encode(), str(path).encode(), params)
    if code != 0:
        raise SystemExit(f"llama_model_quantize answered {code}")


if __name__ == "__main__":
    checkpoint, out, format_name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((checkpoint / "config.json").read_text())
    make = gpt2_tensors if config["model_type"] == "gpt2" else llama_tensors
    model = out / "model.gguf"
    if format_name == "F32":
        write_gguf(config, make(config, load_file(checkpoint / "model.safetensors")), model)
    else:
        whole = out / "whole.gguf"
        write_gguf(config, make(config, load_file(checkpoint / "model.safetensors")), whole)
        quantize(whole, model, format_name)
        whole.unlink()
