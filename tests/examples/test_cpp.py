"""The C++ program in examples/cpp: its tokens are PyTorch's, and what it refuses is one sentence.

It is compiled with the system's CMake and compiler, and with ONNX Runtime's headers: those of
Debian's libonnxruntime-dev, or of a release whose folder ONNXRUNTIME_ROOT names. It runs on the
library inside the installed wheel, which is newer than Debian's and reads older headers, and on
Debian's own where that is installed.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import pytest

from edgegpt.export import export_bundle
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Continuation, Golden
from edgegpt.runtime.bundle.manifest import MANIFEST_NAME
from edgegpt.runtime.engines.support import lowerings_of
from edgegpt.runtime.proof.tolerances import TOLERANCES, is_tie

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
MODEL = ROOT / "models" / "shakespeare-char"
HEADER = "onnxruntime_cxx_api.h"
SYSTEM = Path("/usr/include/onnxruntime")  # where Debian has the header
NAMED = os.environ.get("ONNXRUNTIME_ROOT")
HEADERS = SYSTEM if NAMED is None else Path(NAMED, "include")
NOISE = ("Schema error: ", "Error in cpuinfo: ")
SYSTEMS_LIBRARY = next(Path("/usr/lib").glob("*/libonnxruntime.so"), None)


@dataclass(frozen=True)
class Program:
    path: Path
    version: str  # of ONNX Runtime

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name != "CI"}
        command = [str(self.path), *map(str, arguments)]
        return subprocess.run(
            command, env=kept | environment, capture_output=True, text=True, timeout=300
        )


def missing() -> str | None:
    """Return what is not here to build the program with, or None."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            return tool
    if not (HEADERS / HEADER).is_file():
        return f"{HEADER} in {HEADERS}: libonnxruntime-dev, or a release in ONNXRUNTIME_ROOT"
    probe = ["c++", "-fsyntax-only", "-include", "nlohmann/json.hpp", "-x", "c++", os.devnull]
    if subprocess.run(probe, capture_output=True).returncode:
        return "nlohmann/json.hpp: nlohmann-json3-dev"
    return None


@pytest.fixture(scope="module", params=["wheel", "system"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    lacking = missing()
    if lacking is not None:
        pytest.skip(f"the C++ example is not built: no {lacking}")
    folder, version = tmp_path_factory.mktemp("cpp"), onnxruntime.__version__
    settings = [f"-DONNXRUNTIME_INCLUDE={HEADERS}"]
    if request.param == "wheel":
        # The wheel has the library under its full version only.
        library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / name).symlink_to(library)
        settings.append(f"-DONNXRUNTIME_LIBRARY={folder / 'libonnxruntime.so'}")
    elif SYSTEMS_LIBRARY is None or NAMED is not None:
        pytest.skip("the C++ example is not built with Debian's libonnxruntime: it is not here")
    else:
        settings, version = [], SYSTEMS_LIBRARY.resolve().name.partition(".so.")[2]
    build = folder / "build"
    warnings = "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror"
    for command in (
        ["cmake", "-S", str(EXAMPLE), "-B", str(build), warnings, *settings],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return Program(build / "greedy", version)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped model by precision."""
    folder = tmp_path_factory.mktemp("shipped")
    for precision in ("float32", "int8"):
        export_bundle(MODEL, folder / precision, precision=precision)
    return {path.name: path for path in folder.iterdir()}


def agreed(found: list[int], expected: Continuation, usual: float) -> int:
    """Return how many tokens are the golden ones; the first other one must be a near tie."""
    assert len(found) == len(expected.ids)
    for step, (token, golden) in enumerate(zip(found, expected.ids.tolist(), strict=True)):
        if token != golden:
            assert is_tie(expected.logits[step], float(expected.margins[step]), usual), step
            return step
    return len(found)


def compare(program: Program, folder: Path, lowering: str) -> None:
    """Compare what the program adds to each golden prompt with what PyTorch added."""
    bundle = Bundle.open(folder)
    precision, golden = bundle.manifest.precision, Golden.load(bundle.file(GOLDEN_NAME))
    same, steps = 0, 0
    for prompt, expected in zip(golden.ragged, golden.continuations, strict=True):
        done = program.run(folder, lowering, len(expected.ids), *prompt.ids.tolist())
        if lowering not in lowerings_of("cpu", program.version):
            assert done.returncode == 2
            assert f"ONNX Runtime {program.version} computes {lowering} wrongly" in done.stderr
            return
        assert done.returncode == 0, done.stderr
        same += agreed([int(line) for line in done.stdout.split()], expected, TOLERANCES[precision])
        steps += len(expected.ids)
    assert same == steps if precision == "float32" else same > steps / 2


@pytest.mark.parametrize("lowering", ["ort", "standard", "legacy"])
def test_its_tokens_are_the_golden_ones(
    program: Program, small_bundle: Path, lowering: str
) -> None:
    compare(program, small_bundle, lowering)


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "lowering"),
    [("float32", "ort"), ("float32", "standard"), ("float32", "legacy"), ("int8", "ort")],
)
def test_of_the_shipped_model_its_tokens_are_the_golden_ones(
    program: Program, shipped: dict[str, Path], precision: str, lowering: str
) -> None:
    compare(program, shipped[precision], lowering)


def test_it_ends_with_an_end_id_of_the_bundle(program: Program, small_bundle: Path) -> None:
    ids = program.run(small_bundle, "legacy", 8, 1, 2).stdout.split()
    assert len(ids) == 8
    wanted = ids[: ids.index(ids[3]) + 1]
    changed(small_bundle, program.path.parent / "ends", usage={"end_ids": [int(ids[3])]})
    assert program.run(program.path.parent / "ends", "legacy", 8, 1, 2).stdout.split() == wanted


def changed(bundle: Path, copy: Path, **entries: object) -> Path:
    """Return a copy of the bundle with other entries in its manifest."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
    (copy / MANIFEST_NAME).write_text(json.dumps(manifest | entries))
    return copy


def refused(program: Program, *arguments: object) -> str:
    done = program.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    # Debian's library prints lines of its own when it is loaded.
    lines = [line for line in done.stderr.splitlines() if not line.startswith(NOISE)]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_context_that_is_too_short_is_refused(program: Program, small_bundle: Path) -> None:
    block = json.loads((small_bundle / MANIFEST_NAME).read_bytes())["model"]["block_size"]
    assert program.run(small_bundle, "legacy", block, 1).stdout.count("\n") == block
    said = refused(program, small_bundle, "legacy", block, 1, 2)
    assert f"2 tokens and {block} new ones do not fit the model's context of {block}" in said


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format_version": 4}, "format version 4; this program reads 5"),
        ({"format_version": "5"}, 'format version "5"'),
        ({"model": {"encoder": {}, "decoder": {}}}, "is an encoder-decoder"),
        ({"graphs": []}, "no decoder legacy"),
        ({"graphs": [{"part": "decoder"}]}, "edgegpt.json is damaged"),
    ],
)
def test_what_it_does_not_run_is_refused(
    program: Program, small_bundle: Path, tmp_path: Path, entries: dict[str, object], words: str
) -> None:
    bundle = changed(small_bundle, tmp_path / "bundle", **entries)
    assert words in refused(program, bundle, "legacy", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["legacy", 2], "usage: greedy BUNDLE LOWERING COUNT ID..."),
        (["fast", 2, 1], "fast"),
        (["legacy", 0, 1], "0 is no whole number from 1 to"),
        (["legacy", "2x", 1], "2x is no whole number"),
        (["legacy", 2, 1, -1], "-1 is no whole number from 0 to"),
        (["legacy", 2, 10**30], "is no whole number"),
    ],
)
def test_wrong_arguments_are_refused(
    program: Program, small_bundle: Path, arguments: list[object], words: str
) -> None:
    assert words in refused(program, small_bundle, *arguments)


def test_a_missing_or_broken_manifest_is_refused(program: Program, tmp_path: Path) -> None:
    assert f"no bundle at {tmp_path}" in refused(program, tmp_path, "legacy", 2, 1)
    (tmp_path / MANIFEST_NAME).write_text('{"format_version": 5')
    assert "edgegpt.json is damaged" in refused(program, tmp_path, "legacy", 2, 1)


def test_a_failure_of_onnx_runtime_has_another_exit_code(
    program: Program, small_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "weights.safetensors").unlink()
    done = program.run(tmp_path / "bundle", "legacy", 2, 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: " in done.stderr


def test_onnx_runtime_s_telemetry_is_off(
    program: Program, small_bundle: Path, tmp_path: Path
) -> None:
    done = program.run(
        *(small_bundle, "legacy", 2, 1),
        HOME=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
        ORT_DISABLE_TELEMETRY="0",
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # ONNX Runtime 1.31 keeps what it will send in the cache
