"""Marian, OPUS-MT: the transformer of the paper, with one vocabulary or two."""

from ...model import Seq2SeqConfig
from ..bart_like import stacks, with_paper_sines
from ..family import Family
from ..pair import PairLayout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", True, why="the family's positions are sines")
    source.must_be(
        "transformer-decoder-autoreg",
        "self-attention",
        why="its decoder has a recurrent unit (SSRU) in place of attention",
    )
    shared = source.flag("share_encoder_decoder_embeddings", default=True)
    rows = source.whole("decoder_vocab_size", default=source.whole("vocab_size"))
    return stacks(source, placement="post", target_rows=None if shared else rows)


def _layout(source: SourceSettings) -> PairLayout:
    return with_paper_sines(source, _config(source))


FAMILIES = [
    Family(
        "marian",
        "Marian, OPUS-MT",
        _config,
        _layout,
        pair=True,
        generation={
            "decoder_start_token_id": 58100,
            "pad_token_id": 58100,
            "eos_token_id": 0,
            "forced_eos_token_id": 0,
        },
    )
]
