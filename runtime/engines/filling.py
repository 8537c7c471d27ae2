"""The bytes of a cache row that is filled from the host; for engines whose memory is a device's."""

import numpy as np
from numpy.typing import NDArray

from ..bundle.vocabulary import Dtype

__all__ = ["row_bytes"]


def row_bytes(values: NDArray[np.float32], slots: int, dtype: Dtype) -> NDArray[np.uint8]:
    """Return a row [K, slots, D] that begins with `values` [K, P, D], rounded to `dtype`, as bytes.

    Slots after the first P hold zeros.
    """
    heads, filled, width = values.shape
    row = np.zeros((heads, slots, width), dtype=np.float32)
    row[:, :filled] = values
    if dtype == "bfloat16":  # which numpy lacks: the upper half of a float32, ties to even
        bits = row.view(np.uint32)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).astype(np.uint16).ravel().view(np.uint8)
    return row.astype(dtype).ravel().view(np.uint8)
