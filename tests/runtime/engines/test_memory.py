"""The memory of a generation, added up by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import PREFILL_CHUNK
from edgegpt.runtime.engines.memory import memory_needed


def test_activations_are_the_scores_or_the_wide_values_and_one_row_of_logits_each(
    small_bundle: Path,
) -> None:
    bundle = Bundle.open(small_bundle)
    info = bundle.manifest.model_info
    assert (info.n_head, info.n_ff, info.vocab_size, info.block_size) == (2, 128, 34, 32)
    found = memory_needed(bundle, 3, 20)
    # Three values as wide as the feed-forward layer are more than the scores of two heads.
    assert found.workspace == 4 * (3 * 3 * 20 * 128 + 3 * 34)
    assert found.cache == 4 * 3 * 20 * 2 * info.n_layer * info.n_kv_head * info.head_dim
    assert found.sources == 0
    assert found.total == found.weights + found.cache + found.workspace


def test_a_long_prompt_is_fed_in_pieces(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    long = replace(bundle.manifest, model=bundle.manifest.model | {"block_size": 5000})
    found = memory_needed(Bundle(bundle.folder, long))
    assert found.workspace == 4 * (2 * PREFILL_CHUNK * 5000 + 34)  # the scores of two heads


@pytest.mark.parametrize(
    ("encoder", "activations"),
    [
        ({"n_ff": 200, "block_size": 30}, 3 * 3 * 30 * 200),
        ({"n_ff": 40, "block_size": 300}, 3 * 5 * 300 * 300),  # the scores of five heads
        ({"n_ff": 1, "n_head": 1, "n_kv_head": 1, "block_size": 1}, 3 * 3 * 20 * 128 + 3 * 34),
    ],
)
def test_a_source_is_read_in_one_piece_before_its_text(
    small_bundle: Path, encoder: dict[str, int], activations: int
) -> None:
    bundle = Bundle.open(small_bundle)
    model = bundle.manifest.model
    other = model | {"n_head": 5, "n_kv_head": 5} | encoder
    pair = replace(bundle.manifest, model={"encoder": other, "decoder": model})
    assert memory_needed(Bundle(bundle.folder, pair), 3, 20).workspace == 4 * activations
