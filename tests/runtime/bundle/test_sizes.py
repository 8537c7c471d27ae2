"""What the bytes of a bundle are for."""

from pathlib import Path

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.sizes import shares


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_shares_are_all_of_the_bundle(small_bundle: Path) -> None:
    found = {share.what: share for share in shares(Bundle.open(small_bundle))}
    assert sum(share.size for share in found.values()) == bytes_of(small_bundle)
    weights = (small_bundle / "weights.safetensors").stat().st_size
    assert found["weights"].size == weights
    others = [small_bundle / f"decoder.{name}.onnx" for name in ("standard", "legacy")]
    assert found["graphs of others"].size == sum(path.stat().st_size for path in others)
    assert found["graphs of others"].saved_by == "--lowering ort"
