"""What a native engine cannot compute yet, told from the manifest alone."""

from ...bundle.bundle import Bundle
from ...bundle.manifest import Manifest
from ...errors import EngineError

__all__ = ["check_possible", "obstacle"]


def check_possible(bundle: Bundle) -> None:
    """Raise an EngineError if there is no native engine for a bundle."""
    why = obstacle(bundle.manifest)
    if why is not None:
        raise EngineError(f"the native engine cannot run {bundle.folder}: {why}")


def obstacle(manifest: Manifest) -> str | None:
    """Return why there is no native engine for a bundle, as part of a sentence; None if there is.

    ONNX Runtime runs all bundles.
    """
    scaled = [name.removesuffix(".scales") for name in manifest.weights if name.endswith(".scales")]
    for name in scaled:  # a bundle for browsers has one scale a row
        if manifest.weights[name].dtype != "U8":
            return f"the integers of {name} are not in blocks"
    return None
