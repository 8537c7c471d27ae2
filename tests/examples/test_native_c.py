"""examples/cpp/native.c: its tokens are Python's, and what it refuses is one sentence."""

import shutil
import subprocess
from pathlib import Path

import pytest
from native_builds import NEEDS_COMPILER, built

import edgegpt

EXAMPLE = Path(__file__).parents[2] / "examples" / "cpp"
IDS = [3, 1, 4, 1, 5]
LARGEST = 2 << 20  # bytes of program and library, by the promise of docs/native.md

pytestmark = NEEDS_COMPILER


@pytest.fixture(scope="module")
def program(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("the example in C is not built: no cmake")
    build = tmp_path_factory.mktemp("c")
    settings = (
        f"-DEDGEGPT_ENGINE={built(small_bundle).folder}",
        "-DCMAKE_C_FLAGS=-std=c99 -Wall -Wextra -Wpedantic -Werror",
    )
    for command in (
        ["cmake", "-S", str(EXAMPLE), "-B", str(build), *settings],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "native"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_its_tokens_are_those_of_python(program: Path, small_bundle: Path) -> None:
    done = run(program, built(small_bundle).weights, 12, *IDS)
    assert done.stderr == ""
    with edgegpt.load(small_bundle, "cpu") as model:
        wanted = model.generate([IDS], max_new_tokens=12)[0].token_ids
    assert [int(token) for token in done.stdout.split()] == wanted


def test_program_and_library_are_small(program: Path, small_bundle: Path) -> None:
    library = built(small_bundle).folder / "libedgegpt.so"
    assert program.stat().st_size + library.stat().st_size < LARGEST


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["WEIGHTS", 2, 99], "99"),
        (["WEIGHTS", 2, -1], "-1"),
        (["WEIGHTS", 10**6, 1], "too long for the model"),
        (["WEIGHTS", 0, 1], "too long for the model"),
        (["WEIGHTS", "x", 1], "whole numbers"),
        (["WEIGHTS", 2, "1.5"], "whole numbers"),
        (["nowhere", 2, 1], "No such file"),
        ([__file__, 2, 1], "weights"),
        ([], "usage"),
    ],
)
def test_what_it_refuses_is_one_sentence(
    program: Path, small_bundle: Path, arguments: list[object], reason: str
) -> None:
    weights = built(small_bundle).weights
    done = run(program, *(weights if one == "WEIGHTS" else one for one in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
