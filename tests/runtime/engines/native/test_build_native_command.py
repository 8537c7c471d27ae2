"""`edgegpt build --backend native` and `edgegpt cache`, as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_builds import NEEDS_COMPILER

from edgegpt.cli import main
from edgegpt.runtime.engines.native import prepare

pytestmark = pytest.mark.usefixtures("own_folders")
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; return its exit code and all that it said."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out or captured.err

    return run


@NEEDS_COMPILER
def test_it_compiles_proves_and_tells(run: Run, small_bundle: Path, tmp_path: Path) -> None:
    code, told = run("build", small_bundle, "--backend", "native")
    assert code == 0
    assert "decode" in told
    assert "PASS" in told
    assert "built in" in told
    facts = json.loads(run("build", small_bundle, "--backend", "native", "--json")[1])
    assert facts["proved"] is True
    assert facts["seconds"] is None  # it was there
    assert list((tmp_path / "state").rglob("*native*"))


@NEEDS_COMPILER
def test_a_limit_that_is_no_size_is_told_before_anything_is_compiled(
    run: Run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_compile", lambda *_: pytest.fail("it was compiled"))
    monkeypatch.setenv("EDGEGPT_CACHE_LIMIT", "abc")
    code, told = run("build", small_bundle, "--backend", "native", "--out", tmp_path / "out")
    assert code != 0
    assert "EDGEGPT_CACHE_LIMIT: 'abc'" in told
    assert not list(tmp_path.rglob("*.so"))


@NEEDS_COMPILER
def test_a_wrong_engine_is_not_kept(
    run: Run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that breaks a constant: the norms add another epsilon."""
    constants = prepare.constants_of

    def broken(manifest: object) -> str:
        text = constants(manifest)
        assert "epsilon = " in text
        return text.replace("epsilon = ", "epsilon = 0.5f + ")

    monkeypatch.setattr(prepare, "constants_of", broken)
    code, told = run("build", small_bundle, "--backend", "native", "--out", tmp_path / "out")
    assert code == 1
    assert "FAIL" in told
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max-batch", "2"], "--max-batch is not for the backend native"),
        (["--compute-capability", "8.9"], "--compute-capability is not for"),
        (["--cpu", "-x"], "names none"),
        (["--target", "aarch64-linux"], "--cpu must name its processor"),
    ],
)
def test_impossible_options_are_refused(
    run: Run, small_bundle: Path, options: list[str], reason: str
) -> None:
    code, told = run("build", small_bundle, "--backend", "native", *options)
    assert code != 0
    assert reason in told


def test_options_of_the_native_engine_are_not_for_others(run: Run, small_bundle: Path) -> None:
    code, told = run("build", small_bundle, "--backend", "tensorrt", "--cpu", "native")
    assert code != 0
    assert "--cpu is not for the backend tensorrt" in told


@NEEDS_COMPILER
def test_an_engine_for_another_processor_is_written_and_not_proved(
    run: Run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a cross compiler, whose library this machine cannot load."""

    def cross(*arguments: Any) -> None:
        _compiler, _processor, _sources, _include, out, *_flags = arguments
        out.write_bytes(b"\x7fELF of another processor")

    monkeypatch.setattr(prepare, "find_compiler", lambda _: prepare.Compiler(("c++",), "cross 1"))
    monkeypatch.setattr(prepare, "compile_library", cross)
    there = ["--cpu", "cortex-a76", "--target", "aarch64-linux", "--out", tmp_path / "out"]
    code, told = run("build", small_bundle, "--backend", "native", *there)
    assert code == 0
    assert "not proved here" in told
    code, told = run("build", small_bundle, "--backend", "native", "--json", *there)
    assert json.loads(told)["proved"] is None


@NEEDS_COMPILER
def test_doctor_tells_whether_an_engine_is_built_and_how_to_build_one(
    run: Run, small_bundle: Path
) -> None:
    told = run("doctor", small_bundle, "--backend", "native")
    assert told[0] == 1
    assert f"edgegpt build {small_bundle} --backend native" in " ".join(told[1].split())
    run("build", small_bundle, "--backend", "native")
    code, told = run("doctor", small_bundle, "--backend", "native")
    assert code == 0
    assert "native engine: built" in told
    assert "give BUNDLE" in run("doctor", "--backend", "native")[1]
