"""The memory of a generation, added up by hand."""

from pathlib import Path

from edgegpt.runtime.bundle.bundle import Bundle
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
