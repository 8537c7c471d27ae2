"""M2M100, NLLB: mBART's layers, and sines that are computed."""

from torch import Tensor

from ...model import Seq2SeqConfig
from ..bart_like import layouts, stacks
from ..family import Family
from ..layout import Shape
from ..pair import PairLayout
from ..settings import SourceSettings
from ..sines import even_sines, within_reach

__all__ = ["FAMILIES"]


def _config(source: SourceSettings) -> Seq2SeqConfig:
    source.must_be("static_position_embeddings", True, why="the family's positions are sines")
    return stacks(source, placement="pre", scaled=True, usual="relu")


def _layout(source: SourceSettings) -> PairLayout:
    config = _config(source)
    within_reach(source, config.encoder.block_size, config.encoder.n_embd)
    # Positions count from behind that of the padding, which has the number of the padding's id.
    padding = source.number("pad_token_id", default=1.0)
    if not (padding.is_integer() and 0 <= padding < config.encoder.block_size):
        raise source.error(f"pad_token_id is {padding:g}, which is not one of the positions")

    def table(shape: Shape) -> Tensor:
        return even_sines(shape, int(padding) + 1)

    return layouts(source, config, position_table=table)


FAMILIES = [
    Family(
        "m2m_100",
        "M2M100, NLLB (dense)",
        _config,
        _layout,
        pair=True,
        generation={
            "decoder_start_token_id": 2,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        },
    )
]
