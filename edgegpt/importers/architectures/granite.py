"""Granite 3 and 4 and HyperCLOVA X: Llama with factors on embedding, scores, sub-layers, logits."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes, with_biases
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

ATTENTION = ("attention", "full_attention")  # names of such a layer, the older one first


def _config(source: SourceSettings) -> GPTConfig:
    config = _scaled(source, with_biases(source, sizes(source)), scale=1.0)
    return alike(source, config, rotation_of(source, config.head_dim))


def _scaled(source: SourceSettings, config: GPTConfig, scale: float) -> GPTConfig:
    """Return `config` with the factors; `scale` is the family's default of that on the scores."""
    return replace(
        config,
        activation=activation(source),
        embedding_scale=source.number("embedding_multiplier", default=1.0),
        residual_scale=source.number("residual_multiplier", default=1.0),
        attention_scale=source.number("attention_multiplier", default=scale),
    )


def _layout(source: SourceSettings) -> Layout:
    return Layout(final_scale=1.0 / source.positive("logits_scaling", default=1.0))


def _hyperclova_x(source: SourceSettings) -> GPTConfig:
    config = with_biases(source, sizes(source))
    config = _scaled(source, config, scale=config.attention_scale)
    norms = source.flag("use_post_norm", default=True)
    config = replace(config, norm_placement="sandwich" if norms else "pre")
    return alike(source, config, rotation_of(source, config.head_dim))


def _hyperclova_x_layout(source: SourceSettings) -> Layout:
    factor = source.positive("logits_scaling", default=1.0)
    return Layout(norm_1_out="post_norm1", norm_2_out="post_norm2", final_scale=factor)


def _dense_hybrid(source: SourceSettings) -> GPTConfig:
    """Return the settings of Granite 4 without experts and states; others have its name, too."""
    _refuse_hybrids(source)
    bias = source.flag("attention_bias", default=False)
    source.ignore("intermediate_size")  # of experts
    config = replace(
        sizes(source),
        n_ff=source.whole("shared_intermediate_size", default=1024),
        qkv_bias=bias,
        proj_bias=bias,
    )
    config = _scaled(source, config, scale=1.0)
    source.must_be("position_embedding_type", "rope", "nope", why="its positions are not known")
    if source.values.get("position_embedding_type") == "rope":
        return alike(source, config, rotation_of(source, config.head_dim))
    source.ignore("rope_parameters", "rope_scaling", "rope_theta")
    return alike(source, config, None)


def _refuse_hybrids(source: SourceSettings) -> None:
    """Refuse experts and layers with a state; a model has both unless its settings say no."""
    if source.values.get("num_local_experts") != 0:
        raise source.error("num_local_experts is not 0: it is a mixture of experts")
    types = source.listed("layer_types") or ["mamba"]
    others = [kind for kind in types if kind not in ATTENTION]
    if others:
        raise source.error(
            f"layer_types has {others[0]!r:.80}: some of its layers keep a state that is not a "
            f"cache of keys and values"
        )
    count = source.whole("num_hidden_layers")
    if len(types) != count:
        raise source.error(f"layer_types has {len(types)} entries for {count} layers")
    source.must_be("normalization_function", "rmsnorm", why="only RMSNorm is known")
    source.ignore("init_method", "num_experts_per_tok", "output_router_logits")
    source.ignore("router_aux_loss_coef", "time_step_limit")
    parts = "chunk_size conv_bias d_conv d_head d_state expand n_groups n_heads proj_bias"
    source.ignore(*(f"mamba_{part}" for part in parts.split()))


def _dense_layout(source: SourceSettings) -> Layout:
    return replace(
        _layout(source), gate_up="shared_mlp.input_linear", down="shared_mlp.output_linear"
    )


FAMILIES = [
    Family("granite", "Granite 3 (dense)", _config, _layout),
    Family(
        "granitemoehybrid", "Granite 4.0 (dense: Micro, 350M, 1B)", _dense_hybrid, _dense_layout
    ),
    Family(
        "hyperclovax",
        "HyperCLOVA X SEED (text)",
        _hyperclova_x,
        _hyperclova_x_layout,
        began_as_code=True,
    ),
]
