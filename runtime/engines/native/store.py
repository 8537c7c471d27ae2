"""Native engines in the user's cache: each is a folder of its own.

    <cache>/edgegpt/engines/<bundle id>/<key>/libedgegpt.so
    <cache>/edgegpt/engines/<bundle id>/<key>/weights.bin
    <cache>/edgegpt/engines/<bundle id>/<key>/edgegpt.h
    <cache>/edgegpt/engines/<bundle id>/<key>/engine.json

The key is a hash of everything that decides whether it is the wanted one. `engine.json` repeats
that, with the size and the SHA-256 of library and weights. `edgegpt.h` is for programs in C. The
folder appears in one step.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...bundle.bundle import sha256_of
from ...errors import EngineError
from ...files import new_folder, write_file
from .library import Library

__all__ = ["LIBRARY", "WEIGHTS", "Built", "Identity", "built_in", "write"]

LIBRARY, WEIGHTS, DESCRIPTION = "libedgegpt.so", "weights.bin", "engine.json"
FORMAT = 1
KEY_LENGTH = 32  # hexadecimal digits of a SHA-256 in a folder's name
LARGEST_DESCRIPTION = 1 << 16  # bytes


@dataclass(frozen=True)
class Identity:
    """Everything that decides whether a build is the wanted one.

    Attributes:
        bundle_id: hash of the bundle.
        sources: hash of the sources, the generated constants included.
        compiler: what the compiler says about itself.
        flags: its options.
        cpu: the processor's name, as given to the compiler.
        target: architecture and system.
        features: `machine.processor_kind` of the machine that built for itself; "" for another.
    """

    bundle_id: str
    sources: str
    compiler: str
    flags: str
    cpu: str
    target: str
    features: str

    @property
    def key(self) -> str:
        """The name of the folder."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]


@dataclass(frozen=True)
class Built:
    """A build on the disk, whose sizes and library's hash are those that were written."""

    folder: Path
    identity: Identity
    date: str
    library_sha256: str

    @property
    def weights(self) -> Path:
        """The packed weights."""
        return self.folder / WEIGHTS

    def library(self) -> Library:
        """Load the library."""
        return Library(self.folder / LIBRARY)

    def check_hashes(self) -> None:
        """Compare the weights with their SHA-256, too.

        Raises:
            EngineError: if they differ.
        """
        told = _read(self.folder)["files"][WEIGHTS]["sha256"]
        if sha256_of(self.weights) != told:
            raise EngineError(f"{self.weights} is damaged: build the engine again")


def write(folder: Path, identity: Identity, fill: Callable[[Path], None]) -> Built:
    """Let `fill` write library and weights into a new folder; describe them."""
    with new_folder(folder) as new:
        fill(new)
        files = {
            name: {"size": (new / name).stat().st_size, "sha256": sha256_of(new / name)}
            for name in (LIBRARY, WEIGHTS)
        }
        date = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        described = {
            "format": FORMAT,
            "identity": asdict(identity),
            "files": files,
            "date": date,
        }
        write_file(new / DESCRIPTION, (json.dumps(described, indent=1) + "\n").encode())
    return built_in(folder)


def built_in(folder: Path) -> Built:
    """Return the build in `folder`, after a check of everything but the weights' content.

    Raises:
        EngineError: if it is damaged.
    """
    described = _read(folder)
    if described.get("format") != FORMAT:
        raise EngineError(f"{folder} has format {described.get('format')!r:.40}, not {FORMAT}")
    identity = _identity(described.get("identity"))
    if identity is None or identity.key != folder.name:
        raise EngineError(f"{folder / DESCRIPTION} is not of this folder")
    files = described.get("files")
    for name in (LIBRARY, WEIGHTS):
        entry = files.get(name) if isinstance(files, dict) else None
        path = folder / name
        if not isinstance(entry, dict) or not path.is_file():
            raise EngineError(f"{path} is missing, or {DESCRIPTION} does not name it")
        if path.stat().st_size != entry.get("size"):
            raise EngineError(f"{path} was cut off: it has {path.stat().st_size:,} bytes")
    digest = sha256_of(folder / LIBRARY)
    if not isinstance(files, dict) or digest != files[LIBRARY].get("sha256"):
        raise EngineError(f"{folder / LIBRARY} is damaged: its sha256 is not the stored one")
    return Built(folder, identity, str(described.get("date")), digest)


def _identity(told: Any) -> Identity | None:
    names = [one.name for one in fields(Identity)]
    if not isinstance(told, dict) or sorted(told) != sorted(names):
        return None
    return Identity(**told) if all(isinstance(told[name], str) for name in names) else None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(LARGEST_DESCRIPTION))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} is missing or damaged") from error
    if not isinstance(document, dict):
        raise EngineError(f"{path} is damaged")
    return document
