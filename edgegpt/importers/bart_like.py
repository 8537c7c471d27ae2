"""What the families around BART have in common: settings and names of an encoder-decoder."""

import math
from dataclasses import replace
from typing import Any, Literal

from ..model import GPTConfig, Seq2SeqConfig
from .family import activation, longest, plausible
from .layout import Layout, Values
from .pair import PairLayout
from .settings import SourceSettings
from .sines import paper_sines, within_reach

__all__ = ["layouts", "stacks", "with_paper_sines"]

SIDES = ("encoder", "decoder")
LOGITS_BIAS = "final_logits_bias"
TABLE = "embed_positions.weight"
# Of training, and of the time when one class of transformers was all of these families: the classes
# of today do not read them. Each family checks those that tell it from the others.
FORMER = (
    "add_bias_logits",
    "classif_dropout",
    "decoder_layerdrop",
    "do_blenderbot_90_layernorm",
    "encoder_layerdrop",
    "extra_layer_norm",
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "layernorm_variant",
    "num_hidden_layers",
    "save_step",
    "unk_token_id",
)


def stacks(
    source: SourceSettings,
    *,
    placement: Literal["pre", "post"],
    embedding_norm: bool = False,
    scaled: bool = False,
    usual: str = "gelu",
    target_rows: int | None = None,
) -> Seq2SeqConfig:
    """Return our settings: LayerNorm, biases everywhere, positions by a table.

    Args:
        source: settings of the checkpoint.
        placement: where a sub-layer has its norm; before it, a norm ends each stack, too.
        embedding_norm: whether the embeddings have one.
        scaled: whether the family scales the token embedding unless the settings say otherwise.
        usual: the family's non-linearity.
        target_rows: size of a vocabulary that the targets have for themselves.
    """
    source.ignore(*FORMER)
    source.must_be("is_encoder_decoder", True, why="only its decoder is there")
    source.must_be("tie_encoder_decoder", False, why="its two stacks share their layers")
    source.must_be("normalize_before", placement == "pre", why="its norms are at other places")
    source.must_be("add_final_layer_norm", placement == "pre", why="its norms are at other places")
    source.must_be(
        "normalize_embedding", embedding_norm, why="this family is known with the other value only"
    )
    width = source.whole("d_model", "hidden_size")
    encoder, decoder = (
        plausible(
            source,
            GPTConfig(
                vocab_size=source.whole("vocab_size"),
                block_size=longest(source),
                n_layer=source.whole(f"{side}_layers"),
                n_head=source.whole(f"{side}_attention_heads"),
                n_embd=width,
                n_ff=source.whole(f"{side}_ffn_dim"),
                norm_placement=placement,
                final_norm=placement == "pre",
                embedding_norm=embedding_norm,
                activation=activation(source, "activation_function", default=usual),
                embedding_scale=math.sqrt(width)
                if source.flag("scale_embedding", default=scaled)
                else 1.0,
                qkv_bias=True,
            ),
        )
        for side in SIDES
    )
    head: dict[str, Any] = {
        "tie_embeddings": source.flag("tie_word_embeddings", default=True),
        "head_bias": LOGITS_BIAS in source.tensors,
    }
    if target_rows is None:
        return Seq2SeqConfig(encoder, replace(decoder, **head))
    decoder = replace(decoder, vocab_size=target_rows, **head)
    return Seq2SeqConfig(encoder, decoder, shared_embedding=False)


def layouts(
    source: SourceSettings,
    config: Seq2SeqConfig,
    *,
    position_offset: int = 0,
    position_table: Values | None = None,
) -> PairLayout:
    """Return the names of the tensors, with or without the `model.` of a model with a head."""
    prefix = "" if any(name.startswith(SIDES) for name in source.tensors) else "model."
    own = [f"{prefix}{side}.embed_tokens" for side in SIDES]
    tables = (f"{prefix}shared", *own)
    there = [name for name in tables if f"{name}.weight" in source.tensors]
    shared = (there or tables)[0]

    def layout(side: str, token: str) -> Layout:
        post = "_sum" if config.encoder.norm_placement == "post" else ""
        norms: dict[str, str | None] = {"norm_1": None, "norm_2": None} | {
            f"norm_1{post}": "self_attn_layer_norm",
            f"norm_source{post}": "encoder_attn_layer_norm",
            f"norm_2{post}": "final_layer_norm",
        }
        return Layout(
            token=shared if config.shared_embedding else token,
            position=f"{prefix}{side}.embed_positions",
            position_offset=position_offset,
            position_table=position_table,
            norm_embedding=f"{prefix}{side}.layernorm_embedding",
            layer=f"{prefix}{side}.layers.{{}}.",
            proj="self_attn.out_proj",
            up="fc1",
            down="fc2",
            final=f"{prefix}{side}.layer_norm",
            head_bias=LOGITS_BIAS,
            **norms,  # type: ignore[arg-type]
        )

    ignored = (
        rf"{prefix}(en|de)coder\.version",
        rf"{prefix}(en|de)coder\.embed_positions\.weights",
    )
    return PairLayout(
        layout("encoder", own[0]), layout("decoder", own[1]), tables=tables, ignored=ignored
    )


def with_paper_sines(source: SourceSettings, config: Seq2SeqConfig) -> PairLayout:
    """Return the names of a family with the sines of the paper, which older files hold."""
    within_reach(source, config.encoder.block_size, config.encoder.n_embd)
    held = any(name.endswith(TABLE) for name in source.tensors)
    return layouts(source, config, position_table=None if held else paper_sines)
