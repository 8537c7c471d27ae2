"""GPT-Neo, TinyStories: scores are not scaled, and every other layer has a window."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, placed, sizes
from ..layout import Layout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

WINDOW = 256
USUAL_TYPES = [[["global", "local"], 12]]
LAYOUT = Layout(
    prefix="transformer.",
    token="transformer.wte",
    position="transformer.wpe",
    layer="transformer.h.{}.",
    norm_1="ln_1",
    norm_2="ln_2",
    q="attn.attention.q_proj",
    k="attn.attention.k_proj",
    v="attn.attention.v_proj",
    proj="attn.attention.out_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    final="transformer.ln_f",
    ignored=(r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias",),
)


def _config(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, norm_eps=1e-5, tied=True, gated=False),
        norm="layernorm",
        position="learned",
        activation=activation(source, "activation_function", default="gelu_new"),
        attention_scale=1.0,
        proj_bias=True,
        ff_bias=True,
    )
    window = source.whole("window_size", default=WINDOW)
    types = _types(source, config.n_layer)
    return placed(source, config, [(window if kind == "local" else 0, None) for kind in types])


def _types(source: SourceSettings, layers: int) -> list[str]:
    """Return "global" or "local" for each layer, from lists of them that are to be repeated."""
    types = source.listed("attention_layers")
    repeated = source.listed("attention_types") or USUAL_TYPES
    if types is None:
        types = []
        for entry in repeated:
            kinds, times = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
            if not isinstance(kinds, list) or type(times) is not int or not 0 < times <= layers:
                raise source.error(f"attention_types has {entry!r:.80}, not a list and how often")
            types += kinds * times
    if len(types) != layers or not all(kind in ("global", "local") for kind in types):
        raise source.error(
            f"the types of attention are {types!r:.80}, not global or local for each of the "
            f"{layers} layers"
        )
    return types


FAMILIES = [Family("gpt_neo", "GPT-Neo, TinyStories", _config, LAYOUT)]
