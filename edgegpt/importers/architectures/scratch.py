"""GPTs of PyTorch programs without a config.json: nanoGPT, and the "GPT from scratch" lesson."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, sizes
from ..layout import Layout
from ..lesson import feed_forward
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

LAYER_NORM_EPS = 1e-5  # PyTorch's default, which both use


def _nanogpt(source: SourceSettings) -> GPTConfig:
    """nanoGPT's model.py: GPT-2 with the exact GELU, and biases everywhere or nowhere."""
    bias = source.flag("bias", default=True)
    source.ignore("dropout")
    config = sizes(source, norm_eps=LAYER_NORM_EPS, tied=True, gated=False)
    return replace(
        config,
        norm="layernorm",
        norm_bias=bias,
        position="learned",
        activation="gelu",
        qkv_bias=bias,
        proj_bias=bias,
        ff_bias=bias,
    )


def _lesson(source: SourceSettings) -> GPTConfig:
    """The lesson's model: ReLU, no biases on queries, keys and values, one on the head."""
    config = sizes(source, norm_eps=LAYER_NORM_EPS, gated=False)
    return replace(
        config,
        norm="layernorm",
        position="learned",
        activation="relu",
        attention_scale=source.number("attention_scale"),
        proj_bias=True,
        ff_bias=True,
        head_bias=True,
    )


NANOGPT = Layout(
    prefix="",
    token="transformer.wte",
    position="transformer.wpe",
    layer="transformer.h.{}.",
    norm_1="ln_1",
    norm_2="ln_2",
    qkv="attn.c_attn",
    proj="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final="transformer.ln_f",
    ignored=(r"transformer\.h\.\d+\.attn\.bias",),  # the causal mask, of PyTorch before 2.0
)


def _lesson_layout(source: SourceSettings) -> Layout:
    within = feed_forward(source.tensors)
    return replace(LESSON, up=f"{within}.0", down=f"{within}.2")


LESSON = Layout(
    prefix="",
    token="token_embedding_table",
    position="position_embedding_table",
    layer="blocks.{}.",
    norm_1="ln1",
    norm_2="ln2",
    q="sa.heads.{}.query",
    k="sa.heads.{}.key",
    v="sa.heads.{}.value",
    proj="sa.proj",
    up="ffwd.net.0",
    down="ffwd.net.2",
    final="ln_f",
    ignored=(r"blocks\.\d+\.sa\.heads\.\d+\.tril",),  # the causal masks
)
FAMILIES = [
    Family("nanogpt", "nanoGPT", _nanogpt, NANOGPT),
    Family("lesson", 'the "GPT from scratch" lesson', _lesson, _lesson_layout),
]
