"""What a native engine cannot compute yet, told from the manifest alone."""

from ...bundle.manifest import Manifest

__all__ = ["obstacle"]


def obstacle(manifest: Manifest) -> str | None:
    """Return why there is no native engine for a bundle, as part of a sentence; None if there is.

    ONNX Runtime runs all bundles.
    """
    if "encoder" in manifest.model:
        return "the model has an encoder"
    if manifest.model["position"] == "relative":
        return "its positions are biases by distance"
    shifted = next((name for name in manifest.weights if name.endswith(".zero_points")), None)
    if shifted is not None:
        return f"the integers of {shifted.rpartition('.')[0]} have zero points"
    return None
