"""T5, FLAN-T5, mT5, umT5: biases by distance in place of positions, and nothing is scaled."""

from dataclasses import replace
from functools import partial

from ...model import GPTConfig, Seq2SeqConfig
from ..family import Family, plausible
from ..family import activation as activation_of
from ..layout import Layout
from ..pair import PairLayout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

HEAD = "lm_head"
# A bias by distance serves any length. This is what a bundle sees at most.
BLOCK = 2048
ACTIVATIONS = {"gated-gelu": "gelu_new"}  # the name that has two meanings
IDS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}


def _config(source: SourceSettings, *, usual: str, shared: bool = True) -> Seq2SeqConfig:
    """Return the settings; `usual` is the family's feed-forward layer.

    `shared`: the layers of a stack have the same biases.
    """
    source.ignore("n_positions", "dropout_rate")
    source.must_be("is_encoder_decoder", True, why="only one of its stacks is there")
    source.must_be("tie_encoder_decoder", False, why="its two stacks share their layers")
    named = source.word("feed_forward_proj", default=usual)
    plain = ACTIVATIONS.get(named, named.removeprefix("gated-"))
    layers, heads = source.whole("num_layers"), source.whole("num_heads")
    encoder = GPTConfig(
        vocab_size=source.whole("vocab_size"),
        block_size=BLOCK,
        n_layer=layers,
        n_head=heads,
        n_embd=source.whole("d_model"),
        head_dim=source.whole("d_kv"),
        n_ff=source.whole("d_ff"),
        norm="rmsnorm",
        norm_eps=source.number("layer_norm_epsilon", default=1e-6),
        position="relative",
        relative_buckets=source.whole("relative_attention_num_buckets", default=32),
        relative_distance=source.whole("relative_attention_max_distance", default=128),
        relative_shared=shared,
        activation=activation_of(source, "dense_act_fn", default=plain),
        gated=source.flag("is_gated_act", default=named.startswith("gated-")),
        attention_scale=1.0,
        proj_bias=False,
        ff_bias=False,
    )
    decoder = replace(
        encoder,
        n_layer=source.whole("num_decoder_layers", default=layers),
        tie_embeddings=f"{HEAD}.weight" not in source.tensors,
    )
    return Seq2SeqConfig(plausible(source, encoder), plausible(source, decoder))


def _scaled(source: SourceSettings) -> bool:
    """Return whether the logits have the factor that T5 had when its head was its embedding.

    Version 5 of transformers writes `tie_word_embeddings: true` whatever the head is, and the
    factor under a name of its own. mT5 has it never.
    """
    if source.word("model_type") == "mt5":
        source.ignore("tie_word_embeddings", "scale_decoder_outputs")
        return False
    tied = source.flag("tie_word_embeddings", default=True)
    return source.flag("scale_decoder_outputs", default=tied)


def _layout(source: SourceSettings) -> PairLayout:
    scale = source.whole("d_model") ** -0.5 if _scaled(source) else 1.0
    tables = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    gated = any(name.endswith(".wi_1.weight") for name in source.tensors)
    there = [name for name in tables if f"{name}.weight" in source.tensors]
    return PairLayout(
        _stack("encoder", (there or tables)[0], 1.0, gated=gated),
        _stack("decoder", "", scale, gated=gated),
        tables=tables,
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def _stack(side: str, token: str, final_scale: float, *, gated: bool) -> Layout:
    last = "layer.1" if side == "encoder" else "layer.2"
    feed_forward = f"{last}.DenseReluDense"
    return Layout(
        token=token,
        layer=f"{side}.block.{{}}.",
        norm_1="layer.0.layer_norm",
        q="layer.0.SelfAttention.q",
        k="layer.0.SelfAttention.k",
        v="layer.0.SelfAttention.v",
        relative="layer.0.SelfAttention.relative_attention_bias",
        proj="layer.0.SelfAttention.o",
        norm_source="layer.1.layer_norm",
        source_q="layer.1.EncDecAttention.q",
        source_k="layer.1.EncDecAttention.k",
        source_v="layer.1.EncDecAttention.v",
        source_proj="layer.1.EncDecAttention.o",
        norm_2=f"{last}.layer_norm",
        gate=f"{feed_forward}.wi_0",
        up=f"{feed_forward}.{'wi_1' if gated else 'wi'}",
        down=f"{feed_forward}.wo",
        final=f"{side}.final_layer_norm",
        final_scale=final_scale,
        head=HEAD,
    )


FAMILIES = [
    Family(
        "t5",
        "T5, T5 1.1, FLAN-T5",
        partial(_config, usual="relu"),
        _layout,
        pair=True,
        generation=IDS,
    ),
    Family("mt5", "mT5", partial(_config, usual="gated-gelu"), _layout, pair=True, generation=IDS),
    Family(
        "umt5",
        "umT5",
        partial(_config, usual="gated-gelu", shared=False),
        _layout,
        pair=True,
        generation=IDS,
    ),
]
