"""GLM-4: neighbouring values are rotated, in half of each head; 0414 has norms on both sides."""

from dataclasses import replace

from ...model import GPTConfig
from ..family import Family, activation, alike, sizes
from ..layout import Layout
from ..rope import rotation_of
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

NORM_EPS = 1.5625e-7
HEAD_DIM = 128
ROTATED = 0.5


def _glm(source: SourceSettings) -> GPTConfig:
    config = replace(
        sizes(source, norm_eps=NORM_EPS, head_dim=HEAD_DIM),
        activation=activation(source),
        qkv_bias=source.flag("attention_bias", default=True),
    )
    return alike(source, config, rotation_of(source, config.head_dim, partial=ROTATED))


def _glm_4(source: SourceSettings) -> GPTConfig:
    return replace(_glm(source), norm_placement="sandwich")


GLM = Layout(gate_up="mlp.gate_up_proj", paired_rotary=True)
GLM_4 = replace(GLM, norm_1_out="post_self_attn_layernorm", norm_2_out="post_mlp_layernorm")
FAMILIES = [
    Family("glm", "GLM-4-9B, GLM-Edge", _glm, GLM),
    Family("glm4", "GLM-4-0414, GLM-Z1", _glm_4, GLM_4),
]
