"""Faults of a runtime that only an encoder-decoder can have."""

import numpy as np
from faults_runtime import FaultyEngine, FaultyState

from edgegpt.runtime.engines.base import Sources

__all__ = ["SOURCE_FAULTS", "SourceFault"]


class SourceFault(FaultyEngine):
    """An engine that encodes sources wrongly, or gives them wrongly to its states."""

    state = FaultyState

    def __init__(self, engine) -> None:
        super().__init__(engine, self.state)


class SourceMaskIgnored(SourceFault):
    """The decoder attends to the padding of shorter sources, too."""

    def encode(self, ids, lengths) -> Sources:
        found = self.inner.encode(ids, lengths)
        return Sources(np.full_like(lengths, ids.shape[1]), found.caches)


class PaddingLeaksIntoEncoder(SourceFault):
    """The encoder's tokens see the padding."""

    def encode(self, ids, lengths) -> Sources:
        found = self.inner.encode(ids, np.full_like(lengths, ids.shape[1]))
        return Sources(lengths, found.caches)


class SourceOfAnotherRow(SourceFault):
    """Each row attends to what the encoder made of the row before."""

    def encode(self, ids, lengths) -> Sources:
        found = self.inner.encode(ids, lengths)
        moved = [np.ascontiguousarray(np.roll(cache, 1, axis=0)) for cache in found.caches]
        return Sources(np.roll(lengths, 1), moved)


class KeysOfOneLayerForAnother(SourceFault):
    """The first layer attends to the keys of the second."""

    def encode(self, ids, lengths) -> Sources:
        found = self.inner.encode(ids, lengths)
        return Sources(lengths, [found.caches[2], *found.caches[1:]])


class LastTokenCut(SourceFault):
    """The end of a source is left out."""

    def encode(self, ids, lengths) -> Sources:
        return self.inner.encode(ids, np.maximum(lengths - 1, 1))


class SourcesStay(FaultyState):
    """When rows move, their sources stay where they were."""

    def _move_sources(self, parents) -> None:
        pass


class SourcesStayWhenRowsMove(SourceFault):
    """When rows move, their sources stay where they were."""

    state = SourcesStay


class OtherStart(FaultyState):
    """Texts begin with the padding id in place of the start id."""

    def before(self, ids, past_len, logit_positions):
        ids = np.where((past_len == 0)[:, None] & (np.arange(ids.shape[1]) == 0), 0, ids)
        return ids, past_len, logit_positions


class WrongStartToken(SourceFault):
    """Texts begin with the padding id in place of the start id."""

    state = OtherStart


class AfterSource(FaultyState):
    """The positions of a text go on from those of its source."""

    def before(self, ids, past_len, logit_positions):
        return ids, past_len + 2, logit_positions


class PositionsMixed(SourceFault):
    """The positions of a text go on from those of its source."""

    state = AfterSource


class ParentsIgnored(FaultyState):
    """A beam that goes on from another one keeps the keys and values of its own row."""

    def _copy_rows(self, sources, targets, since, slots) -> None:
        if self.rows_each == 1:
            super()._copy_rows(sources, targets, since, slots)


class BeamsFollowWrongParent(SourceFault):
    """Beams go on from the keys and values of another one."""

    state = ParentsIgnored


SOURCE_FAULTS = {
    "beams follow the wrong parent": BeamsFollowWrongParent,
    "source mask ignored": SourceMaskIgnored,
    "padding leaks into the encoder": PaddingLeaksIntoEncoder,
    "sources of another row": SourceOfAnotherRow,
    "keys of one layer for another": KeysOfOneLayerForAnother,
    "end of the source cut": LastTokenCut,
    "sources stay when rows move": SourcesStayWhenRowsMove,
    "wrong start token": WrongStartToken,
    "positions of source and target mixed": PositionsMixed,
}
