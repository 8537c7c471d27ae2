"""Native engines for tests: compiled once for each bundle, where there is a compiler."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native import compiler as compilers
from edgegpt.runtime.engines.native.choice import open_built
from edgegpt.runtime.engines.native.compiler import Compiler, Processor
from edgegpt.runtime.engines.native.engine import NativeEngine
from edgegpt.runtime.engines.native.prepare import CONSTANTS, build_engine
from edgegpt.runtime.engines.native.store import WEIGHTS, Built, built_in
from edgegpt.runtime.engines.native.weights import pack_weights

__all__ = ["NEEDS_COMPILER", "built", "compile_once", "native_engine", "repacked"]

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("c++") is None, reason="this machine has no C++ compiler"
)


def compile_once(folder: Path) -> Callable[..., None]:
    """Return a `compile_library` that keeps what it compiled in `folder`, and copies it when the
    same constants, sources and options come again."""

    def compile_library(
        compiler: Compiler,
        processor: Processor,
        sources: Sequence[Path],
        include: Path,
        out: Path,
        flags: Sequence[str] = (),
    ) -> None:
        units = [path.name for path in sources]
        options = repr((compiler, processor, compilers.FLAGS, units, tuple(flags)))
        texts = [include / CONSTANTS, *sorted(sources[0].parent.iterdir())]
        read = b"".join(path.read_bytes() for path in texts)
        kept = folder / hashlib.sha256(options.encode() + read).hexdigest()
        if not kept.exists():
            compilers.compile_library(compiler, processor, sources, include, out, flags)
            shutil.copyfile(out, kept)
        else:
            shutil.copyfile(kept, out)

    return compile_library


@cache
def built(folder: Path) -> Built:
    """Build the engine of the bundle in `folder`, in a folder of its own."""
    return build_engine(Bundle.open(folder), folder=Path(_scratch().name)).built


def native_engine(bundle: Bundle, threads: int = 1) -> NativeEngine:
    """Return a new engine of a bundle, on one build."""
    return open_built(bundle, built(bundle.folder), threads)


def repacked(sound: Path, damaged: Path, folder: Path) -> Built:
    """Return the engine of a bundle in a new `folder`, with the weights of a damaged copy of it.

    The copy has the manifest of the sound one.
    """
    place = folder / built(sound).identity.key
    shutil.copytree(built(sound).folder, place)
    pack_weights(Bundle.open(damaged), place / WEIGHTS)
    return built_in(place)


@lru_cache(maxsize=1)
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="edgegpt-native-")
