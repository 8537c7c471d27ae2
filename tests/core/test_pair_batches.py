"""Batches of pairs: what is in them, how large they are, and that each process has its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgegpt.errors import DataError, InvalidInputError
from edgegpt.training.pair_batches import (
    IGNORED,
    EncodedPairs,
    PairBatch,
    PairBatches,
    encode_pairs,
)
from edgegpt.training.subword_tokenizer import END, PAD, START, Ragged, build_subword_tokenizer


def ragged(rows: list[list[int]]) -> Ragged:
    ids = np.array([number for row in rows for number in row], dtype=np.int32)
    return Ragged(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64))


def pairs_of(lengths: list[tuple[int, int]]) -> EncodedPairs:
    """Return pairs of these lengths, whose ids say which pair and which side they are from."""
    sources = ragged([[10 + 2 * i] * source for i, (source, _) in enumerate(lengths)])
    targets = ragged([[11 + 2 * i] * target for i, (_, target) in enumerate(lengths)])
    return EncodedPairs(sources, targets)


def random_pairs(count: int, longest: int, seed: int = 0) -> EncodedPairs:
    draw = np.random.default_rng(seed)
    return pairs_of(draw.integers(1, longest + 1, size=(count, 2)).tolist())


def epoch(batches: PairBatches, number: int = 0) -> list[PairBatch]:
    first = number * batches.steps_per_epoch + 1
    return [batches.batch(first + index) for index in range(batches.steps_per_epoch)]


def numbers_of(batches: list[PairBatch]) -> list[int]:
    return [number for batch in batches for number in batch.numbers.tolist()]


def size(batch: PairBatch) -> int:
    return batch.source.numel() + batch.target_in.numel()


lengths = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=60)


def test_a_batch_has_padded_sources_and_targets_shifted_by_the_start():
    pairs = EncodedPairs(ragged([[7, 8, 9], [5]]), ragged([[4], [3, 6]]))
    (batch,) = PairBatches(pairs, 100, seed=0).in_order()
    rows = {
        number: [
            batch.source[row].tolist(),
            int(batch.source_len[row]),
            batch.target_in[row].tolist(),
            batch.target_out[row].tolist(),
        ]
        for row, number in enumerate(batch.numbers.tolist())
    }
    assert rows == {
        0: [[7, 8, 9], 3, [START, 4, PAD], [4, END, IGNORED]],
        1: [[5, PAD, PAD], 1, [START, 3, 6], [3, 6, END]],
    }
    assert {tensor.dtype for tensor in vars(batch).values()} == {torch.int64}


def test_the_loss_leaves_out_the_padding_of_targets():
    (batch,) = PairBatches(pairs_of([(2, 1), (2, 5)]), 100, seed=0).in_order()
    logits = torch.zeros(*batch.target_out.shape, 20, dtype=torch.float64)
    losses = F.cross_entropy(logits.flatten(0, 1), batch.target_out.flatten(), reduction="none")
    assert int((losses > 0).sum()) == 2 + 6  # targets and their ends
    assert int((batch.target_out == END).sum()) == 2


@given(lengths, st.integers(0, 2**62), st.integers(0, 2))
def test_an_epoch_has_each_pair_once_as_it_is(sizes: list[tuple[int, int]], seed: int, number: int):
    pairs = pairs_of(sizes)
    batches = epoch(PairBatches(pairs, 300, seed), number)
    assert sorted(numbers_of(batches)) == list(range(len(sizes)))
    for batch in batches:
        for row, pair in enumerate(batch.numbers.tolist()):
            source, target = sizes[pair]
            assert int(batch.source_len[row]) == source
            assert batch.source[row, :source].tolist() == [10 + 2 * pair] * source
            assert (batch.source[row, source:] == PAD).all()
            expected = [11 + 2 * pair] * target
            assert batch.target_in[row, : target + 1].tolist() == [START, *expected]
            assert (batch.target_in[row, target + 1 :] == PAD).all()
            assert batch.target_out[row, : target + 1].tolist() == [*expected, END]
            assert (batch.target_out[row, target + 1 :] == IGNORED).all()


@given(lengths, st.integers(152, 600))
def test_a_batch_is_trimmed_and_within_the_limit_padding_included(
    sizes: list[tuple[int, int]], limit: int
):
    for batch in epoch(PairBatches(pairs_of(sizes), limit, 0)):
        assert size(batch) <= limit
        assert batch.source.shape[1] == int(batch.source_len.max())
        assert (batch.target_out[:, -1] == END).any()


def test_rows_of_a_batch_are_alike_and_fill_it():
    batches = epoch(PairBatches(random_pairs(20_000, 60), 4000, 0))
    total = sum(size(batch) for batch in batches)
    padding = total - sum(
        int(batch.source_len.sum()) + int((batch.target_out != IGNORED).sum()) for batch in batches
    )
    assert padding / total < 0.08
    assert total / (4000 * len(batches)) > 0.95


def test_batches_come_in_no_order_of_length():
    widths = [batch.source.shape[1] for batch in epoch(PairBatches(random_pairs(3000, 60), 800, 0))]
    assert np.corrcoef(np.arange(len(widths)), widths)[0, 1] < 0.3


def test_each_epoch_mixes_rows_and_batches_anew():
    batches = PairBatches(random_pairs(3000, 20), 1000, 0)
    first, second = ([frozenset(b.numbers.tolist()) for b in epoch(batches, n)] for n in (0, 1))
    assert len(set(first) & set(second)) < len(first) / 20
    assert batches.steps_per_epoch == len(first) == len(second)


def test_a_batch_depends_on_seed_and_step_and_nothing_else():
    pairs = random_pairs(500, 30)

    def batch(seed: int, step: int) -> list[int]:
        return PairBatches(pairs, 400, seed).batch(step).numbers.tolist()

    resumed = PairBatches(pairs, 400, 7)
    far = 5 * resumed.steps_per_epoch + 3
    for step in (far, 1, 2, far):
        np.random.seed(step)
        torch.manual_seed(step)
        assert resumed.batch(step).numbers.tolist() == batch(7, step)
    assert batch(7, 1) != batch(8, 1)
    assert batch(7, 1) != batch(7, 2)


@given(lengths, st.integers(1, 4))
def test_processes_share_an_epoch_without_overlap_in_the_same_number_of_steps(
    sizes: list[tuple[int, int]], world: int
):
    pairs = pairs_of(sizes)
    count = PairBatches(pairs, 200, 5).steps_per_epoch
    if count < world:
        with pytest.raises(InvalidInputError, match=rf"{count} batches of 200.*{world} processes"):
            PairBatches(pairs, 200, 5, 0, world)
        return
    shares = [PairBatches(pairs, 200, 5, rank, world) for rank in range(world)]
    assert {share.steps_per_epoch for share in shares} == {count // world}
    seen = [number for share in shares for number in numbers_of(epoch(share))]
    assert len(set(seen)) == len(seen)
    if count % world == 0:
        assert sorted(seen) == list(range(len(sizes)))


def test_processes_take_the_batches_of_one_process_in_turns():
    pairs = random_pairs(500, 30)
    whole = PairBatches(pairs, 400, 3)
    shares = [PairBatches(pairs, 400, 3, rank, 2) for rank in range(2)]
    for step in (1, 2, 9):
        for rank, share in enumerate(shares):
            expected = whole.batch(2 * step - 1 + rank).numbers
            assert torch.equal(share.batch(step).numbers, expected)


def test_in_order_has_each_pair_once_for_every_process():
    pairs = random_pairs(501, 30)
    plain = numbers_of(list(PairBatches(pairs, 400, 0).in_order()))
    assert sorted(plain) == list(range(501))
    assert numbers_of(list(PairBatches(pairs, 400, 9, 1, 2).in_order())) == plain


def test_a_pair_that_no_batch_can_hold_is_refused_with_its_size():
    with pytest.raises(InvalidInputError, match=r"of 15 tokens has no room.*needs 16"):
        PairBatches(pairs_of([(2, 2), (8, 7)]), 15, 0)
    assert PairBatches(pairs_of([(2, 2), (8, 7)]), 16, 0).steps_per_epoch == 2


def test_pairs_too_long_for_the_model_are_left_out_and_counted():
    pairs = [("a a", "b"), ("a a a", "b"), ("a", "b b"), ("a", "b b b"), ("a a", "b b")] * 2
    source = build_subword_tokenizer([text for text, _ in pairs], 100)
    target = build_subword_tokenizer([text for _, text in pairs], 100)
    encoded = encode_pairs(source, target, pairs, longest_source=3, longest_target=3)
    texts = [
        (source.decode(encoded.sources[i][:-1]), target.decode(encoded.targets[i]))
        for i in range(len(encoded.sources))
    ]
    assert texts == [("a a", "b"), ("a", "b b"), ("a a", "b b")] * 2
    assert encoded.left_out == 4
    assert all(encoded.sources[i][-1] == END for i in range(len(encoded.sources)))
    (batch,) = PairBatches(encoded, 100, 0).in_order()
    assert (batch.source.shape[1], batch.target_in.shape[1]) == (3, 3)


def test_pairs_that_are_all_too_long_are_refused():
    tokenizer = build_subword_tokenizer(["a b c"], 100)
    with pytest.raises(DataError, match=r"1 pair is too long.*3 tokens.*target 4, ends"):
        encode_pairs(tokenizer, tokenizer, [("a b c", "a b c")], 3, 4)
