"""Encoder-decoders of PyTorch programs without a config.json: `nn.Transformer`, and the lesson."""

import math
from dataclasses import replace
from typing import Any

from ...model import GPTConfig, Seq2SeqConfig
from ..family import Family, activation, plausible
from ..layout import Layout
from ..pair import PairLayout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

SIDES = ("encoder", "decoder")
BLOCK = 512  # tokens, where positions are computed and nothing says how many
SHARED = "embedding"


def _stack(source: SourceSettings, **switches: Any) -> GPTConfig:
    """Return the settings of the encoder: LayerNorm, biases everywhere."""
    width = source.whole("d_model")
    return GPTConfig(
        vocab_size=source.whole("vocab_size"),
        n_layer=source.whole("encoder_layers"),
        n_head=source.whole("n_head"),
        n_embd=width,
        n_ff=source.whole("d_ff"),
        norm_eps=source.positive("norm_eps", default=1e-5),
        activation=activation(source, "activation", default="relu"),
        embedding_scale=source.positive("embedding_scale", default=math.sqrt(width)),
        qkv_bias=True,
        **switches,
    )


def _pair(source: SourceSettings, encoder: GPTConfig, *, block: int, shared: bool) -> Seq2SeqConfig:
    decoder = replace(
        encoder,
        vocab_size=source.whole("decoder_vocab_size"),
        n_layer=source.whole("decoder_layers"),
        block_size=block,
        head_bias=_head_bias(source),
        tie_embeddings="head.weight" not in source.tensors and shared,
    )
    return Seq2SeqConfig(plausible(source, encoder), plausible(source, decoder), shared)


def _head_bias(source: SourceSettings) -> bool:
    return any(name in source.tensors for name in ("head.bias", "decoder.fc_out.bias"))


def _lesson(source: SourceSettings) -> Seq2SeqConfig:
    """The lesson's model: trained positions, norms after the additions, scaled embeddings."""
    source.must_be("position", "learned", why="the lesson's positions are trained")
    source.must_be("norm_placement", "post", why="the lesson's norms come after the additions")
    encoder = _stack(
        source, block_size=source.whole("block_size"), norm_placement="post", final_norm=False
    )
    pair = _pair(source, encoder, block=source.whole("decoder_block_size"), shared=False)
    return replace(pair, decoder=replace(pair.decoder, tie_embeddings=False))


def _module(source: SourceSettings) -> Seq2SeqConfig:
    """PyTorch's module; what is around it is as in PyTorch's tutorial unless the user says so."""
    held = "positions.weight" in source.tensors
    position = source.word("position", default="learned" if held else "sinusoidal")
    placement = source.word("norm_placement", default="post")
    if position not in ("learned", "sinusoidal", "none") or placement not in ("pre", "post"):
        raise source.error(
            f"position is {position!r:.40} and norm_placement {placement!r:.40}; they are learned, "
            f"sinusoidal or none, and pre or post"
        )
    if held != (position == "learned"):
        raise source.error(
            f"position is {position!r}, but the file has "
            f"{'a table of positions' if held else 'no table of positions'}"
        )
    switches: dict[str, Any] = {
        "block_size": source.whole("block_size", default=BLOCK),
        "position": position,
        "norm_placement": placement,
        "final_norm": "encoder.norm.weight" in source.tensors,
    }
    encoder = _stack(source, **switches)
    shared = f"{SHARED}.weight" in source.tensors
    return _pair(source, encoder, block=encoder.block_size, shared=shared)


def _lesson_layout(source: SourceSettings) -> PairLayout:
    encoder, decoder = (
        Layout(
            token=f"{side}.tok_embedding",
            position=f"{side}.pos_embedding",
            layer=f"{side}.layers.{{}}.",
            norm_1=None,
            norm_1_sum="self_attn_layer_norm",
            norm_source_sum="enc_attn_layer_norm",
            norm_2=None,
            norm_2_sum="ff_layer_norm",
            q="self_attention.fc_q",
            k="self_attention.fc_k",
            v="self_attention.fc_v",
            proj="self_attention.fc_o",
            source_q="encoder_attention.fc_q",
            source_k="encoder_attention.fc_k",
            source_v="encoder_attention.fc_v",
            source_proj="encoder_attention.fc_o",
            up="positionwise_feedforward.fc_1",
            down="positionwise_feedforward.fc_2",
            head="decoder.fc_out",
        )
        for side in SIDES
    )
    # The factor on the embedding, which some versions save.
    return PairLayout(encoder, decoder, ignored=(r"(en|de)coder\.scale",))


def _module_layout(source: SourceSettings) -> PairLayout:
    post = source.word("norm_placement", default="post") == "post"
    shared = f"{SHARED}.weight" in source.tensors

    def layout(side: str, token: str, last: str) -> Layout:
        names = {"norm_1": "norm1", "norm_source": "norm2", "norm_2": last}
        norms: dict[str, Any] = dict.fromkeys(names) | {
            f"{name}_sum" if post else name: theirs for name, theirs in names.items()
        }
        return Layout(
            token=SHARED if shared else token,
            position="positions",
            layer=f"{side}.layers.{{}}.",
            qkv="self_attn.in_proj",
            proj="self_attn.out_proj",
            source_qkv="multihead_attn.in_proj",
            source_proj="multihead_attn.out_proj",
            up="linear1",
            down="linear2",
            final=f"{side}.norm",
            head="head",
            **norms,
        )

    return PairLayout(
        layout("encoder", "source_embedding", "norm2"),
        layout("decoder", "target_embedding", "norm3"),
        tables=(SHARED,),
        # Masks, and the positions of a module that computes them, are no weights.
        ignored=(r"(src|tgt|trg)_mask",),
    )


FAMILIES = [
    Family("nn.Transformer", "PyTorch's nn.Transformer", _module, _module_layout, pair=True),
    Family(
        "lesson-seq2seq",
        'the "Attention Is All You Need" lesson',
        _lesson,
        _lesson_layout,
        pair=True,
    ),
]
