"""Golden vectors that do not fit their model, though hashes match, are refused by name."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from edgegpt.runtime.bundle import golden_fit
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden_fit import golden_of
from edgegpt.runtime.errors import BundleError
from edgegpt.runtime.proof.verify import verify

Array = NDArray[np.generic]


def cut(array: Array) -> Array:
    return array[:-1]


def bare(array: Array) -> Array:
    return array.reshape(-1)[:1].reshape(())


def turned(array: Array) -> Array:
    return np.ascontiguousarray(array.T)


def negative(array: Array) -> Array:
    return np.full_like(array, -1)


def huge(array: Array) -> Array:
    return np.full_like(array, 34)  # the vocabulary has 34 ids, the block 32 tokens


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prefill.4.ids", negative),
        ("prefill.4.ids", huge),
        ("prefill.4.ids", bare),
        ("prefill.5.ids", np.float64),
        ("prefill.5.logits", cut),
        ("prefill.5.logits", turned),
        ("prefill.5.logits", bare),
        ("chunked.sizes", cut),
        ("chunked.sizes", np.zeros_like),
        ("chunked.sizes", bare),
        ("ragged.1.ids", cut),
        ("far.1.past_len", negative),
        ("far.1.past_len", huge),
        ("far.1.past_len", bare),
        ("continuation.2.ids", cut),
        ("continuation.2.logits", cut),
        ("continuation.2.margins", cut),
        ("tokenizer.ids", bare),
        ("tokenizer.vocabulary", lambda array: array[:0]),
        ("past.0", turned),
        ("past.3", cut),
        ("past.3", bare),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    altered_bundle, small_bundle, name: str, change: Callable[[Array], Array]
) -> None:
    arrays = load_file(small_bundle / GOLDEN_NAME)
    bundle = altered_bundle({GOLDEN_NAME: save({**arrays, name: change(arrays[name])})})
    group = name.rpartition(".")[0]
    with pytest.raises(
        BundleError, match=rf"golden\.safetensors is damaged: .*({group}|\d-d|axis)"
    ):
        verify(Bundle.open(bundle))


@pytest.mark.parametrize("name", ["continuation.3", "past.3", "tokenizer"])
def test_a_row_a_cache_or_a_sample_too_few_is_named(
    altered_bundle, small_bundle, name: str
) -> None:
    """Without its sample, the tokenizer of a bundle would go unproved."""
    arrays = load_file(small_bundle / GOLDEN_NAME)
    left = {key: array for key, array in arrays.items() if not key.startswith(name)}
    with pytest.raises(BundleError, match=rf"is damaged: {name.partition('.')[0]} is missing, or"):
        golden_of(Bundle.open(altered_bundle({GOLDEN_NAME: save(left)})))


def with_window(arrays: dict[str, Array], length: int, rows: int) -> dict[str, Array]:
    """Return the vectors with a held-out window of so many ids and rows of logits."""
    logits = np.zeros((rows, 34), dtype=np.float32)
    return {**arrays, "quality.0.ids": np.zeros(length, np.int64), "quality.0.logits": logits}


def with_kept(arrays: dict[str, Array], best: int) -> dict[str, Array]:
    """Return the vectors with only one logit of each position of a prompt, of the id `best`."""
    count = len(arrays["prefill.5.ids"])
    kept = {
        "logits": np.zeros((count, 1), dtype=np.float32),
        "top_ids": np.full((count, 1), best),
        "log_sum_exp": np.zeros(count, dtype=np.float32),
    }
    return arrays | {f"prefill.5.{name}": array for name, array in kept.items()}


def with_steps(arrays: dict[str, Array], more: int) -> dict[str, Array]:
    """Return the vectors with so many more steps of decoding."""
    longer = {
        name: np.concatenate([array, array[:1].repeat(more, axis=0)])
        for name, array in arrays.items()
        if name.startswith("continuation.")
    }
    return arrays | longer


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda arrays: with_window(arrays, 33, 32), None),
        (lambda arrays: with_window(arrays, 34, 33), "quality.0.ids"),
        (lambda arrays: with_window(arrays, 33, 33), "quality.0.logits"),
        (lambda arrays: with_kept(arrays, 33), None),
        (lambda arrays: with_kept(arrays, 34), "prefill.5.logits"),
        (lambda arrays: with_kept(arrays, -1), "prefill.5.logits"),
        (lambda arrays: with_steps(arrays, 1), "continuation.3.ids"),
    ],
)
def test_what_the_block_or_the_vocabulary_cannot_hold_is_named(
    altered_bundle, small_bundle, change: Callable[[dict[str, Array]], dict[str, Array]], told
) -> None:
    arrays = change(load_file(small_bundle / GOLDEN_NAME))
    bundle = Bundle.open(altered_bundle({GOLDEN_NAME: save(arrays)}))
    if told is None:
        golden_of(bundle)
        return
    with pytest.raises(BundleError, match=f"is damaged: {re.escape(told)} is missing, or not of"):
        golden_of(bundle)


@pytest.mark.parametrize(
    ("source", "fits"),
    [([0, 4], True), ([0, 1, 2], True), ([0, 1, 2, 3], False), ([5], False), ([-1], False)],
)
def test_a_source_has_as_many_ids_as_the_encoder_reads_and_only_those_it_knows(
    small_bundle, source: list[int], fits: bool
) -> None:
    info = Bundle.open(small_bundle).manifest.model_info
    pair = dataclasses.replace(info, encoder=dataclasses.replace(info, vocab_size=5, block_size=3))
    assert golden_fit._reads(pair, np.array(source)) is fits
    assert not golden_fit._reads(pair, None)
    assert not golden_fit._reads(info, np.array(source))
    assert golden_fit._reads(info, None)


def test_the_export_s_own_vectors_fit(small_bundle) -> None:
    assert len(golden_of(Bundle.open(small_bundle)).past) == 4
