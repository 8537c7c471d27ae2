"""PEGASUS: mBART's layers, and the sines of the paper."""

from ...model import Seq2SeqConfig
from ..bart_like import stacks, with_paper_sines
from ..family import Family
from ..pair import PairLayout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", True, why="the family's positions are sines")
    return stacks(source, placement="pre")


def _layout(source: SourceSettings) -> PairLayout:
    return with_paper_sines(source, _config(source))


FAMILIES = [
    Family(
        "pegasus",
        "PEGASUS",
        _config,
        _layout,
        pair=True,
        generation={
            "decoder_start_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "forced_eos_token_id": 1,
        },
    )
]
