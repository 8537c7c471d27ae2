"""Make the golden vectors: PyTorch's results in float64, on the plain path without a cache.

The exported path is the cached one, so the comparison also shows a mistake in the cache operator.

The work does not grow with the block. Short blocks and small vocabularies are covered: the prompts
hold every position and every id. In longer blocks the prompts are short, and positions far into the
block are reached over a long past; see `far_places` and `proof.far_past`.
"""

from .pairs import make_pair_golden, quality_pairs
from .prompts import far_places
from .texts import make_golden, quality_windows

__all__ = ["far_places", "make_golden", "make_pair_golden", "quality_pairs", "quality_windows"]
