"""What the bytes of a bundle are for, and the option of `edgegpt export` that saves them."""

from pathlib import Path
from typing import NamedTuple

from .bundle import GOLDEN_NAME, RECEIPT_NAME, Bundle
from .manifest import MANIFEST_NAME

__all__ = ["PREFILL_ONLY", "Share", "shares"]

# Names of tensors that only the graph for long prompts reads end so.
PREFILL_ONLY = (".columns", ".column_scales")


class Share(NamedTuple):
    """A part of a bundle: what it is, its bytes, and the option that leaves it out, or ""."""

    what: str
    size: int
    saved_by: str


def shares(bundle: Bundle) -> list[Share]:
    """Return the parts of a bundle; their sizes add up to those of its files."""
    manifest, first = bundle.manifest, bundle.manifest.graphs[0].lowering
    sizes = {path.name: path.stat().st_size for path in _files(bundle)}
    copy = sum(e.size for name, e in manifest.weights.items() if name.endswith(PREFILL_ONLY))
    own = {graph.file for graph in manifest.graphs if graph.lowering == first}
    others = {graph.file for graph in manifest.graphs} - own
    proof = sizes.pop(GOLDEN_NAME, 0) + sizes.pop(RECEIPT_NAME, 0)
    found = [
        Share("weights", sizes.pop(manifest.weights_file) - copy, ""),
        Share("int8 copy of the weights, for prompts", copy, "--no-fast-prefill"),
        Share(f"graphs of {first}", sum(sizes.pop(name, 0) for name in own), ""),
        Share(
            "graphs of others", sum(sizes.pop(name, 0) for name in others), f"--lowering {first}"
        ),
        Share("golden vectors and receipt", proof, ""),
        Share("tokenizer, settings, papers", sum(sizes.values()), ""),
    ]
    return [share for share in found if share.size]


def _files(bundle: Bundle) -> list[Path]:
    named = [MANIFEST_NAME, RECEIPT_NAME, *bundle.manifest.files]
    paths = [bundle.folder / name for name in dict.fromkeys(named)]
    return [path for path in paths if path.is_file()]
