"""Build the native engine of a bundle, or find the one that is stored."""

import hashlib
import logging
import platform
import shlex
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...bundle.bundle import Bundle
from ...cache import keep_within_limit, limit
from ...errors import EdgeGPTWarning, EngineError
from ...files import check_room, scratch_folder
from ...machine import processor_kind
from ...progress import Progress, silent
from ..stored import engine_folder
from .compiler import FLAGS, Compiler, Processor, compile_library, find_compiler
from .constants import constants_of
from .layout import Layout
from .library import Library
from .obstacle import check_possible, obstacle
from .store import LIBRARY, WEIGHTS, Built, Identity, built_in, write
from .weights import pack_weights

__all__ = ["Prepared", "build_command", "build_engine", "debug_library", "stored_engine"]

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "source"
CONSTANTS, HEADER = "model.h", "edgegpt.h"
# What Windows and macOS say of themselves -> what compilers say.
ARCHITECTURES, SYSTEMS = {"amd64": "x86_64", "arm64": "aarch64"}, {"darwin": "macos"}


@dataclass(frozen=True)
class Prepared:
    """A build that is ready; `seconds` is how long it took, None if it was there already."""

    built: Built
    seconds: float | None


def build_engine(
    bundle: Bundle,
    processor: Processor | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Return the engine for a processor (None: this machine's); build it unless it is stored.

    Raises:
        BundleError: if a file differs from the exported one.
        EngineError: if the model has something that the engine lacks, if there is no compiler, or
            if it fails.
    """
    processor = processor or Processor()
    check_possible(bundle)
    compiler = find_compiler(processor)
    constants = constants_of(bundle.manifest)
    identity = _identity(bundle, compiler, processor, constants)
    place = (folder or engine_folder(bundle.manifest.id)) / identity.key
    if place.exists():
        try:
            return Prepared(built_in(place), None)
        except EngineError as error:
            told = f"{error}; the engine is built again"
            warnings.warn(told, EdgeGPTWarning, stacklevel=2)
    limit()  # refused before the work
    check_room(place, Layout(bundle.manifest).size)
    bundle.check_hashes()  # an engine of damaged weights would pass as one of intact weights
    begin = time.perf_counter()

    def fill(new: Path) -> None:
        _compile(constants, compiler, processor, new / LIBRARY)
        pack_weights(bundle, new / WEIGHTS, progress)
        shutil.copyfile(SOURCES / HEADER, new / HEADER)

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        built = write(place, identity, fill)
    except OSError as error:
        raise EngineError(f"cannot keep the engine in {place.parent}: {error.strerror}") from error
    keep_within_limit()
    seconds = time.perf_counter() - begin
    logger.info("built %s in %.1f s with %s", place, seconds, compiler.version)
    return Prepared(built, seconds)


def debug_library(bundle: Bundle, out: Path) -> Library:
    """Compile a library for this machine that also tells of its layers; see `edgegpt.h`.

    Raises:
        EngineError: if there is no compiler, or if it fails.
    """
    compiler, constants = find_compiler(Processor()), constants_of(bundle.manifest)
    _compile(constants, compiler, Processor(), out, ["-DEDGEGPT_STREAMS"])
    return Library(out)


def _compile(
    constants: str, compiler: Compiler, processor: Processor, out: Path, flags: Sequence[str] = ()
) -> None:
    with scratch_folder(len(constants)) as scratch:
        (scratch / CONSTANTS).write_bytes(constants.encode())
        units = sorted(SOURCES.glob("*.cpp"))
        compile_library(compiler, processor, units, scratch, out, flags)


def stored_engine(bundle: Bundle) -> Built | None:
    """Return the engine of `bundle` for this processor that was built last; None: there is none.

    One that another machine built is for any processor of its architecture; the library itself
    refuses a processor that lacks what it uses.

    Raises:
        EngineError: if there are only some that were built from the sources of another edgegpt.
    """
    if obstacle(bundle.manifest) is not None:
        return None
    wanted = _hash_of_sources(constants_of(bundle.manifest))
    found = _built_for_here(bundle)
    ours = [built for built in found if built.identity.sources == wanted]
    if found and not ours:
        raise EngineError(
            f"the native engine of {bundle.folder} was built by another edgegpt than this one: run "
            f"{build_command(bundle)}"
        )
    return max(ours, key=lambda built: built.date, default=None)


def build_command(bundle: Bundle) -> str:
    """Return the command that builds a native engine of `bundle`."""
    return f"edgegpt build {shlex.quote(str(bundle.folder))} --backend native"


def _built_for_here(bundle: Bundle) -> list[Built]:
    """Return all intact engines of `bundle` for this system and processor, whoever built them."""
    here, system = processor_kind(), _system()
    found = []
    for folder in sorted(engine_folder(bundle.manifest.id).glob("*/")):
        try:
            built = built_in(folder)
        except EngineError as error:
            logger.debug("%s is left out: %s", folder, error)
            continue
        if built.identity.target == system and built.identity.features in ("", here):
            found.append(built)
    return found


def _identity(bundle: Bundle, compiler: Compiler, processor: Processor, constants: str) -> Identity:
    return Identity(
        bundle_id=bundle.manifest.id,
        sources=_hash_of_sources(constants),
        compiler=compiler.version,
        flags=" ".join([*FLAGS, *compiler.flags(processor)]),
        cpu=processor.cpu,
        target=processor.target or _system(),
        features=processor_kind() if processor.is_here else "",
    )


def _system() -> str:
    """Return what compilers call this machine, such as "x86_64-linux"."""
    machine, system = platform.machine().lower(), platform.system().lower()
    return f"{ARCHITECTURES.get(machine, machine)}-{SYSTEMS.get(system, system)}"


def _hash_of_sources(constants: str) -> str:
    digest = hashlib.sha256(constants.encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
