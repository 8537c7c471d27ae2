"""Gemma 1 to 3, VaultGemma: norms that multiply by 1 + w, a wider embedding, gelu in the gate."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, placed, sizes, softcap, window, windows
from ..layout import Layout
from ..rope import rotation_of, rotations_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

HEAD_DIM = 256
GELU = "gelu_pytorch_tanh"
QUERY_SCALAR = 256.0
WINDOW = 4096
# In Gemma 3, for each type of layer: where older files have the base, and its default.
BASES = {
    "full_attention": ("rope_theta", 1000000.0),
    "sliding_attention": ("rope_local_base_freq", 10000.0),
}


def _sizes(source: SourceSettings) -> GPTConfig:
    config = sizes(source, tied=True, head_dim=HEAD_DIM)
    bias = source.flag("attention_bias", default=False)
    return replace(config, qkv_bias=bias, proj_bias=bias, embedding_scale=config.n_embd**0.5)


def _gemma(source: SourceSettings) -> GPTConfig:
    # The first files say "gelu" and mean its tanh form, which a second setting may repeat.
    source.must_be("hidden_act", "gelu", GELU, why="Gemma has the tanh form of gelu")
    source.must_be("hidden_activation", GELU, why="Gemma has the tanh form of gelu")
    config = replace(_sizes(source), activation="gelu_tanh")
    return alike(source, config, rotation_of(source, config.head_dim))


def _scaled(source: SourceSettings, *, logit_softcap: float = 0.0) -> GPTConfig:
    """Return what Gemma 2 and 3 share; `logit_softcap` is the family's default."""
    source.ignore("hidden_act")  # hidden_activation is what counts
    return replace(
        _sizes(source),
        activation=activation(source, "hidden_activation", default=GELU),
        attention_scale=source.positive("query_pre_attn_scalar", default=QUERY_SCALAR) ** -0.5,
        logit_softcap=softcap(source, "final_logit_softcapping", default=logit_softcap),
    )


def _vault(source: SourceSettings) -> GPTConfig:
    """VaultGemma: every second layer has a window, the first one does."""
    config = _scaled(source, logit_softcap=30.0)
    cap = softcap(source, "attn_logit_softcapping", default=50.0)
    config = replace(config, attention_softcap=cap)
    rotation = rotation_of(source, config.head_dim)
    width = window(source, default=WINDOW)
    source.ignore("sliding_window_size")  # Gemma 2 9B repeats it; nothing reads it
    own = windows(source, config, width, lambda layer: layer % 2 == 0)
    return placed(source, config, [(each, rotation) for each in own])


def _gemma_2(source: SourceSettings) -> GPTConfig:
    return replace(_vault(source), norm_placement="sandwich")


def _gemma_3(source: SourceSettings) -> GPTConfig:
    """Every sixth layer sees all tokens; those with windows turn faster, and are not scaled."""
    source.must_be("attn_logit_softcapping", why="transformers leaves it out for Gemma 3")
    config = replace(_scaled(source), norm_placement="sandwich", qk_norm="head")
    rotations = rotations_of(source, config.head_dim, BASES)
    every = source.whole("sliding_window_pattern", default=6)
    source.ignore("_sliding_window_pattern")  # comes with layer_types, which outrank it
    width = window(source, default=WINDOW)
    own = windows(source, config, width, lambda layer: (layer + 1) % every != 0)
    names = ("sliding_attention" if each else "full_attention" for each in own)
    rotation = [rotations[name] for name in names]
    return placed(source, config, list(zip(own, rotation, strict=True)))


PLAIN = Layout(norm_offset=1.0)
VAULT = replace(PLAIN, norm_2="pre_feedforward_layernorm")
SANDWICH = replace(
    VAULT, norm_1_out="post_attention_layernorm", norm_2_out="post_feedforward_layernorm"
)
FAMILIES = [
    Family("gemma", "Gemma, CodeGemma", _gemma, PLAIN),
    Family("gemma2", "Gemma 2", _gemma_2, SANDWICH),
    Family("gemma3_text", "Gemma 3 (270M, 1B)", _gemma_3, SANDWICH),
    Family("vaultgemma", "VaultGemma", _vault, VAULT),
]
