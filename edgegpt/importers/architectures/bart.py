"""BART, and its kin that differ in a setting: PLBart, mBART, Blenderbot."""

from functools import partial

from ...model import Seq2SeqConfig
from ..bart_like import layouts, stacks
from ..family import Family
from ..pair import PairLayout
from ..settings import SourceSettings

__all__ = ["FAMILIES"]

OFFSET = 2  # rows of the position tables that stand before that of the first token
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2}


def _bart(source: SourceSettings, *, scaled: bool = False) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", False, why="the family's positions are trained")
    return stacks(source, placement="post", embedding_norm=True, scaled=scaled)


def _mbart(source: SourceSettings) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", False, why="the family's positions are trained")
    return stacks(source, placement="pre", embedding_norm=True)


def _blenderbot(source: SourceSettings) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", False, why="the family's positions are trained")
    return stacks(source, placement="pre")


def _bart_layout(source: SourceSettings) -> PairLayout:
    return layouts(source, _bart(source), position_offset=OFFSET)


def _mbart_layout(source: SourceSettings) -> PairLayout:
    return layouts(source, _mbart(source), position_offset=OFFSET)


def _blenderbot_layout(source: SourceSettings) -> PairLayout:
    return layouts(source, _blenderbot(source))


FAMILIES = [
    Family(
        "bart",
        "BART",
        _bart,
        _bart_layout,
        pair=True,
        generation=IDS | {"decoder_start_token_id": 2},
    ),
    Family(
        "plbart",
        "PLBart",
        partial(_bart, scaled=True),
        _bart_layout,
        pair=True,
        generation=IDS,
    ),
    Family("mbart", "mBART, mBART-50", _mbart, _mbart_layout, pair=True, generation=IDS),
    Family(
        "blenderbot",
        "Blenderbot",
        _blenderbot,
        _blenderbot_layout,
        pair=True,
        generation={
            "decoder_start_token_id": 1,
            "bos_token_id": 1,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "forced_eos_token_id": 2,
            "encoder_no_repeat_ngram_size": 3,
        },
    ),
]
