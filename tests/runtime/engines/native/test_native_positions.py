"""The tables of positions that a native engine reads are those of the model in PyTorch."""

import numpy as np
import pytest
import torch

from edgegpt.model.positions import distance_buckets
from edgegpt.runtime.engines.native.positions import Biases, Buckets

SPAN = 3000


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("count", "farthest"), [(32, 128), (32, 129), (4, 5), (8, 12), (64, 1000), (128, 256)]
)
def test_distances_have_the_biases_that_pytorch_gives_them(
    count: int, farthest: int, *, causal: bool
) -> None:
    weight = torch.randn(count, 3, generator=torch.manual_seed(count))
    wanted = weight[distance_buckets(SPAN, count, farthest, causal=causal)].T.numpy()  # (3, n)
    biases = Biases("relative", 3, SPAN, Buckets(count, farthest, causal))
    (found,) = biases.pieces(lambda _: weight.numpy())
    np.testing.assert_array_equal(found[:, : 2 * SPAN - 1], wanted)
    assert found.astype(np.float32).nbytes == biases.size
