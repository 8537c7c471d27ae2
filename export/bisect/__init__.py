"""Find the first place in an exported graph that computes something different from PyTorch.

`places` names the places and finds them in a graph, `runs` feeds both sides, and `compare` puts the
two together. `native` does the same with the layers of a compiled engine.
"""

from .compare import Place, bisect, first_wrong
from .native import bisect_native

__all__ = ["Place", "bisect", "bisect_native", "first_wrong"]
