"""Make the manifest of a damaged bundle match the damage, so that only the results are wrong."""

import hashlib
from dataclasses import replace
from pathlib import Path

from edgegpt.runtime.bundle.manifest import FileEntry, Manifest

__all__ = ["reseal"]


def reseal(bundle: Path) -> None:
    """Update sizes, hashes and id in the manifest to those of the changed files."""
    old = Manifest.parse((bundle / "edgegpt.json").read_bytes())
    files = {
        name: FileEntry(len(raw), hashlib.sha256(raw).hexdigest())
        for name in old.files
        for raw in [(bundle / name).read_bytes()]
    }
    (bundle / "edgegpt.json").write_text(replace(old, files=files).to_json())
