"""Falcon: one key/value head and one norm (7B), or groups of heads and two norms (40B, 180B)."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout, by_group
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LONGEST = 2048  # the first files do not say it
LAYOUT = Layout(
    prefix="transformer.",
    token="transformer.word_embeddings",
    layer="transformer.h.{}.",
    qkv="self_attention.query_key_value",
    unpack=by_group,
    proj="self_attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    final="transformer.ln_f",
    ignored=(r".*\.rotary(_emb)?\.inv_freq",),
)


def _config(source: SourceSettings) -> GPTConfig:
    source.must_be(
        "apply_residual_connection_post_layernorm", False, why="it adds to the normalised stream"
    )
    source.ignore("ff_factor")  # ffn_hidden_size says it
    bias = source.flag("bias", default=False)
    config = replace(
        sizes(source, norm_eps=1e-5, tied=True, gated=False, block_size=LONGEST),
        norm="layernorm",
        parallel=_is_parallel(source),
        activation=activation(source, "activation", default="gelu"),
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=bias,
    )
    config = replace(config, n_kv_head=_kv_heads(source, config.n_head))
    return alike(source, config, rotation_of(source, config.head_dim))


def _is_grouped(source: SourceSettings) -> bool:
    return source.flag("new_decoder_architecture", default=False)


def _is_parallel(source: SourceSettings) -> bool:
    parallel = source.flag("parallel_attn", default=True)
    return parallel or _is_grouped(source)


def _kv_heads(source: SourceSettings, heads: int) -> int:
    given = source.whole("num_kv_heads", default=heads)
    multi_query = source.flag("multi_query", default=True)
    if _is_grouped(source):
        return given
    return 1 if multi_query else heads


def _layout(source: SourceSettings) -> Layout:
    """Return the names, which depend on where the norms are and on whether two share one."""
    grouped = _is_grouped(source)
    allowed = (1, 2) if grouped else (1,)
    source.must_be("num_ln_in_parallel_attn", *allowed, why="this architecture has no such norms")
    norms = source.whole("num_ln_in_parallel_attn", default=max(allowed))
    if norms == 2:
        return replace(LAYOUT, norm_1="ln_attn", norm_2="ln_mlp")
    return replace(LAYOUT, norm_2="input_layernorm") if _is_parallel(source) else LAYOUT


FAMILIES = [
    Family("falcon", "Falcon 7B, 40B, 180B, Falcon2 11B", _config, _layout, began_as_code=True)
]
