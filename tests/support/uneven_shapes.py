"""Small models whose shapes are hard to quantise: tied, of odd width, with narrow heads."""

__all__ = ["UNEVEN"]

UNEVEN = {
    "llama, tied": {
        "norm": "rmsnorm",
        "position": "rope",
        "activation": "silu",
        "gated": True,
        "n_kv_head": 1,
        "proj_bias": False,
        "ff_bias": False,
        "norm_bias": False,
        "tie_embeddings": True,
        "head_bias": False,
    },
    "odd width": {"n_embd": 48, "n_head": 3, "n_ff": 90},
    "heads of 12": {"n_embd": 48, "n_head": 4},  # GroupQueryAttention does not take these
}
