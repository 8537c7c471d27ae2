"""Manifests that a test edits as JSON, and how they are refused."""

import hashlib
import json
from typing import Any

import pytest

from edgegpt.runtime.bundle.manifest import Manifest
from edgegpt.runtime.errors import BundleError

__all__ = ["places", "put", "refusal", "sealed"]


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values inside a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in inside:
        found.append((*path, key))
        if isinstance(part, dict | list):
            found += places(part, (*path, key))
    return found


def put(document: Any, path: tuple[str | int, ...], value: object) -> None:
    """Set the value at the end of `path`, which leads through tables and lists."""
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def sealed(document: dict[str, Any]) -> str:
    """Return the document as JSON with a matching id, so that only its content can be refused."""
    body = {key: value for key, value in document.items() if key != "id"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "id": hashlib.sha256(canonical.encode()).hexdigest()})


def refusal(text: str | bytes) -> str:
    """Return the one line with which a manifest is refused."""
    with pytest.raises(BundleError) as error:
        Manifest.parse(text)
    assert "\n" not in str(error.value)
    return str(error.value)
