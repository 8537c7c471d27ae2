"""Batches of pairs: as many rows of about one length as fit into a number of tokens.

Rows are ordered by length, so that a batch has little padding, and cut into batches once. For this,
longer lengths are rounded up a little. Each epoch mixes the rows of equal rounded lengths and the
order of the batches; the size of a batch does not change, and its number of tokens stays within the
limit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from edgegpt.runtime.quantity import quantity
from edgegpt.runtime.text.pairs import Pair

from ..errors import DataError, InvalidInputError
from .subword_tokenizer import END, PAD, START, Ragged, encode_texts

__all__ = [
    "IGNORED",
    "EncodedPairs",
    "PairBatch",
    "PairBatches",
    "encode_pairs",
    "longest_pair",
]

IGNORED = -100  # in targets: no token to predict, as torch's cross_entropy has it by default
LENGTHS_PER_OCTAVE = 8  # 1 to 16 stay, 17 to 32 become even, 33 to 64 multiples of four, and so on

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class EncodedPairs:
    """Sources with their ends, and targets without start and end, as ids.

    `left_out` pairs were too long for the model.
    """

    sources: Ragged
    targets: Ragged
    left_out: int = 0


@dataclass(frozen=True)
class PairBatch:
    """B pairs, padded to the longest source, N tokens, and the longest target, T, ends included.

    Attributes:
        source: the source and its end, int64 [B, N]; `PAD` after it.
        source_len: tokens of each source, its end included, int64 [B].
        target_in: the start and the target, int64 [B, T]; `PAD` after it.
        target_out: the target and the end, int64 [B, T]; `IGNORED` after it.
        numbers: which pairs these are, int64 [B].
    """

    source: Tensor
    source_len: Tensor
    target_in: Tensor
    target_out: Tensor
    numbers: Tensor


def encode_pairs(
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    longest_source: int,
    longest_target: int,
) -> EncodedPairs:
    """Encode pairs; those of more tokens than these are left out. An end counts as one.

    A source gets an end, as in Marian, BART and T5: places are counted from the start, so it is
    this that tells the encoder how long the source is, and what a digit is worth.

    Raises:
        DataError: if a character is unknown, or all pairs are too long.
    """
    sources = encode_texts(source_tokenizer, [source for source, _ in pairs]).followed_by(END)
    targets = encode_texts(target_tokenizer, [target for _, target in pairs])
    fits = (sources.lengths <= longest_source) & (targets.lengths < longest_target)
    if not fits.any():
        raise DataError(
            f"{quantity(len(pairs), 'pair is', 'pairs are')} too long, and none is left: a source "
            f"may have {longest_source} tokens, a target {longest_target}, ends included"
        )
    return EncodedPairs(sources.only(fits), targets.only(fits), int((~fits).sum()))


def longest_pair(pairs: EncodedPairs) -> int:
    """Return the tokens of the longest pair in a batch, its ends and padding included."""
    source, target = _rounded_up(pairs.sources.lengths), _rounded_up(pairs.targets.lengths + 1)
    return int((source + target).max())


class PairBatches:
    """The batches of encoded pairs, for one of `world` processes.

    Attributes:
        steps_per_epoch: how many batches each process gets until the pairs begin anew. If the
            batches are no multiple of the processes, an epoch leaves out the rest of them.
    """

    def __init__(
        self, pairs: EncodedPairs, max_tokens: int, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        """Cut the pairs into batches of at most `max_tokens` tokens, those of padding included.

        The tokens of a batch are those of its sources [B, N] and its targets [B, T].

        Raises:
            InvalidInputError: if a batch has no room for the longest pair, or there are fewer
                batches than processes.
        """
        self.pairs, self.seed, self.rank, self.world = pairs, seed, rank, world
        source, target = _rounded_up(pairs.sources.lengths), _rounded_up(pairs.targets.lengths + 1)
        # Targets get longer and shorter in turns, so that neighbours are alike there, too.
        downwards = np.unique(source, return_inverse=True)[1] % 2 == 1
        self._keys = (np.where(downwards, -target, target), source)
        order = np.lexsort(self._keys)
        self._cuts = _cut(source[order].tolist(), target[order].tolist(), max_tokens)
        self.steps_per_epoch = (len(self._cuts) - 1) // world
        if self.steps_per_epoch == 0:
            raise InvalidInputError(
                f"the pairs make {len(self._cuts) - 1} batches of {max_tokens} tokens, fewer than "
                f"the {world} processes: use smaller batches or fewer processes"
            )
        self._epoch = -1
        self._rows: list[Ids] = []

    def batch(self, step: int) -> PairBatch:
        """Return this process's batch of training step `step`, from 1.

        It depends only on the arguments and on those of the constructor, so a resumed run sees the
        same batches. In a step, no two processes have a pair in common, nor in an epoch.
        """
        epoch, index = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._shuffled(epoch)
        return _assemble(self.pairs, self._rows[index * self.world + self.rank])

    def in_order(self) -> Iterator[PairBatch]:
        """Yield all batches, for all processes, by length: each pair exactly once."""
        for rows in self._split(np.lexsort(self._keys)):
            yield _assemble(self.pairs, rows)

    def _shuffled(self, epoch: int) -> list[Ids]:
        """Return the pairs of each batch of an epoch."""
        generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        mixed = generator.permutation(len(self.pairs.sources))
        batches = self._split(np.lexsort((mixed, *self._keys)))
        return [batches[index] for index in generator.permutation(len(batches))]

    def _split(self, order: Ids) -> list[Ids]:
        return np.split(order, self._cuts[1:-1])


def _rounded_up(lengths: Ids) -> Ids:
    """Round each length up to one of the few that count as different."""
    _, octave = np.frexp((lengths - 1) // LENGTHS_PER_OCTAVE)
    step = 2 ** np.maximum(octave - 1, 0).astype(np.int64)
    rounded: Ids = -(-lengths // step) * step
    return rounded


def _cut(sources: list[int], targets: list[int], max_tokens: int) -> list[int]:
    """Return where batches begin, and the end: each gets as many of the next rows as fit."""
    cuts, widest_source, widest_target = [0], 0, 0
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        if source + target > max_tokens:
            raise InvalidInputError(
                f"a batch of {max_tokens} tokens has no room for the longest pair, which needs "
                f"{source + target}"
            )
        widest_source, widest_target = max(widest_source, source), max(widest_target, target)
        if (widest_source + widest_target) * (row + 1 - cuts[-1]) > max_tokens:
            cuts.append(row)
            widest_source, widest_target = source, target
    return [*cuts, len(sources)]


def _assemble(pairs: EncodedPairs, numbers: Ids) -> PairBatch:
    source, source_len = pairs.sources.padded(numbers, PAD)
    target, target_len = pairs.targets.padded(numbers, PAD)
    rows = np.arange(len(numbers))
    target_in = np.insert(target, 0, START, axis=1)  # (B, T)
    target_out = np.insert(target, target.shape[1], PAD, axis=1)  # (B, T)
    target_out[np.arange(target_out.shape[1]) > target_len[:, None]] = IGNORED
    target_out[rows, target_len] = END
    arrays = (source, source_len, target_in, target_out, numbers)
    return PairBatch(*(torch.from_numpy(array) for array in arrays))
