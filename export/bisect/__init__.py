"""Find the first place in an exported graph that computes something different from PyTorch.

`places` names the places and finds them in a graph, `runs` feeds both sides, and `compare` puts the
two together.
"""

from .compare import Place, bisect, first_wrong

__all__ = ["Place", "bisect", "first_wrong"]
