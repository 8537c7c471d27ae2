"""Engines in the user's cache: each is a plan, and a sidecar that describes it.

A plan can be read only by the version of TensorRT that wrote it, on a device like the one it is
for. So a sidecar, a JSON file, holds everything that must be known about the plan: what it was
built from, with and for, its inputs and outputs, and its size and SHA-256. A plan is used only if
its sidecar is exactly what would be written today, and if its bytes have the stored hash.

    <cache>/edgegpt/engines/<bundle id>/<key>.json
    <cache>/edgegpt/engines/<bundle id>/<key>.<start of the plan's sha256>.engine

The sidecar is written last, and names the plan by its content. If two processes write at once, the
pair of the later one remains. A process killed between the two files leaves a plan that nothing
names, and which is ignored.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...bundle.manifest import Graph
from ...errors import EngineError
from ...files import write_file
from .profiles import Limits, profiles

__all__ = [
    "SIDECAR_VERSION",
    "Identity",
    "StoredEngine",
    "load_engine",
    "newest",
    "store_engine",
]

SIDECAR_VERSION = 1
KEY_LENGTH = 32  # hexadecimal digits of a SHA-256 in a file name


@dataclass(frozen=True)
class Identity:
    """Everything that decides whether an engine is the wanted one.

    Attributes:
        bundle_id: hash of the bundle.
        graph: name of the graph in the bundle.
        flavour: flavour of TensorRT.
        version: version of TensorRT.
        compute_capability: that of the GPU, as "8.9".
        gpu: name of the GPU; "" if the engine is for any GPU of this compute capability.
        cuda: newest CUDA major version that the driver knows; "" if the engine is for any.
        max_batch: see `Limits`.
        max_context: see `Limits`.
    """

    bundle_id: str
    graph: str
    flavour: str
    version: str
    compute_capability: str
    gpu: str
    cuda: str
    max_batch: int
    max_context: int

    @property
    def key(self) -> str:
        """The beginning of the names of the engine's files."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def limits(self) -> Limits:
        """The limits that the engine is built for."""
        return Limits(self.max_batch, self.max_context)

    def with_limits(self, limits: Limits) -> "Identity":
        """Return the same identity with other limits."""
        return replace(self, max_batch=limits.max_batch, max_context=limits.max_context)


@dataclass(frozen=True)
class StoredEngine:
    """A checked plan: its bytes are those that were stored for `identity`.

    `sha256` is the hash of the plan, in hexadecimal.
    """

    identity: Identity
    path: Path
    plan: bytes | memoryview
    sha256: str


def store_engine(
    folder: Path, identity: Identity, graph: Graph, plan: bytes | memoryview, seconds: float
) -> StoredEngine:
    """Write a plan and then its sidecar; they replace an earlier pair.

    Raises:
        EngineError: if the folder cannot be written.
    """
    digest = hashlib.sha256(plan).hexdigest()
    path = folder / f"{identity.key}.{digest[:KEY_LENGTH]}.engine"
    sidecar = {
        **_description(identity, graph),
        "plan": {"file": path.name, "size": len(plan), "sha256": digest},
        "built": {
            "date": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
            "seconds": round(seconds, 3),
        },
    }
    text = json.dumps(sidecar, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _plan_named_by(folder, identity)
        write_file(path, plan)
        write_file(_sidecar_path(folder, identity), text.encode())
        if before is not None and before != path:
            before.unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(f"cannot keep the engine in {folder}: {error.strerror}") from error
    return StoredEngine(identity, path, plan, digest)


def load_engine(folder: Path, identity: Identity, graph: Graph) -> "StoredEngine | str | None":
    """Return the engine stored for `identity`, None if there is none, or a text: what is wrong."""
    path = _sidecar_path(folder, identity)
    if not path.exists():
        return None
    sidecar = _read_json(path)
    version = sidecar.get("sidecar_version") if sidecar is not None else None
    if sidecar is None:
        return f"{path} is damaged"
    if type(version) is not int or version != SIDECAR_VERSION:
        return f"{path} has version {version!r:.40}, this edgegpt writes {SIDECAR_VERSION}"
    for name, wanted in _description(identity, graph).items():
        if sidecar.get(name) != wanted:
            return f"{path} is of another engine: its {name} differs"
    entry = sidecar.get("plan")
    plan = _named_plan(folder, identity, entry)
    if plan is None or not isinstance(entry, dict):
        return f"{path} does not name its plan"
    try:
        raw = plan.read_bytes()
    except OSError as error:
        return f"{plan} cannot be read: {error.strerror}"
    if len(raw) != entry.get("size"):
        return f"{plan} was cut off: it has {len(raw):,} bytes of {entry.get('size')!r:.40}"
    digest = hashlib.sha256(raw).hexdigest()
    if digest != entry.get("sha256"):
        return f"{plan} is damaged: its sha256 is not the stored one"
    return StoredEngine(identity, plan, raw, digest)


def newest(folder: Path, identity: Identity) -> Identity | None:
    """Return the identity of the engine built last that differs at most in limits; None if none."""
    found: list[tuple[str, Identity]] = []
    for path in folder.glob("*.json"):
        sidecar = _read_json(path) or {}
        of, built = sidecar.get("identity"), sidecar.get("built")
        if not isinstance(of, dict) or not isinstance(built, dict):
            continue
        batch, context = of.get("max_batch"), of.get("max_context")
        if type(batch) is not int or type(context) is not int:
            continue
        same = identity.with_limits(Limits(batch, context))
        if of == asdict(same) and path.stem == same.key:
            found.append((str(built.get("date")), same))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _description(identity: Identity, graph: Graph) -> dict[str, Any]:
    """Return the part of a sidecar that follows from the identity, as JSON would read it back."""
    names = ("min", "opt", "max")
    made = [
        {
            "name": profile.name,
            "shapes": {
                name: dict(zip(names, map(list, three), strict=True))
                for name, three in profile.shapes.items()
            },
        }
        for profile in profiles(graph, identity.limits)
    ]
    return {
        "sidecar_version": SIDECAR_VERSION,
        "key": identity.key,
        "identity": asdict(identity),
        "inputs": [asdict(port) for port in graph.inputs],
        "outputs": [asdict(port) for port in graph.outputs],
        "profiles": made,
    }


def _sidecar_path(folder: Path, identity: Identity) -> Path:
    return folder / f"{identity.key}.json"


def _plan_named_by(folder: Path, identity: Identity) -> Path | None:
    sidecar = _read_json(_sidecar_path(folder, identity)) or {}
    return _named_plan(folder, identity, sidecar.get("plan"))


def _named_plan(folder: Path, identity: Identity, entry: Any) -> Path | None:
    """Return the plan that a sidecar names; None unless it is a file name of this engine."""
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        return None
    is_own = name.startswith(f"{identity.key}.") and name.endswith(".engine")
    return folder / name if is_own else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
