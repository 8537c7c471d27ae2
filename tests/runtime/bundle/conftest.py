"""The small bundle's manifest, for the modules that test manifests."""

from pathlib import Path

import pytest

from edgegpt.runtime.bundle.manifest import MANIFEST_NAME, Manifest


@pytest.fixture(scope="session")
def manifest(small_bundle: Path) -> Manifest:
    return Manifest.parse((small_bundle / MANIFEST_NAME).read_bytes())
