"""Which compiler is found, how it is called, and what is said when there is none or it fails."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from edgegpt.errors import EngineError, InvalidInputError
from edgegpt.runtime.engines.native import compiler as module
from edgegpt.runtime.engines.native.compiler import (
    Compiler,
    Processor,
    compile_library,
    find_compiler,
)

HELLO = 'extern "C" __attribute__((visibility("default"))) int hello() { return 7; }'
POSIX = pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")


def stand_in(folder: Path, name: str, script: str) -> Path:
    """Write a compiler that is a shell script."""
    path = folder / name
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo stand-in 1.0; exit; fi\n{script}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but `sh`, and no ziglang."""
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    return folder


def compiled(folder: Path, compiler: Compiler) -> Path:
    source = folder / "hello.cpp"
    source.write_text(HELLO)
    compile_library(compiler, Processor(), [source], folder, folder / "out.so")
    return folder / "out.so"


def test_a_machine_without_a_compiler_says_how_to_get_one(tools: Path) -> None:
    with pytest.raises(EngineError, match=r"no C\+\+ compiler .*apt install g\+\+.*\[native\]"):
        find_compiler(Processor())


@POSIX
def test_the_machine_s_own_compiler_comes_first(tools: Path) -> None:
    path = stand_in(tools, "c++", "exit 1")
    assert find_compiler(Processor()) == Compiler((str(path),), "stand-in 1.0")


def test_the_python_package_is_taken_where_there_is_no_other(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "ziglang")
    monkeypatch.setattr(module, "_version", lambda command: " ".join(command[1:]))
    found = find_compiler(Processor())
    assert (found.command[0], found.version, found.is_zig) == (
        sys.executable,
        "-m ziglang c++",
        True,
    )


@POSIX
def test_another_architecture_needs_a_compiler_for_it(tools: Path) -> None:
    stand_in(tools, "c++", "exit 1")
    there = Processor("cortex-a76", "aarch64-linux")
    with pytest.raises(EngineError, match=r"aarch64-linux-gnu-g\+\+"):
        find_compiler(there)
    path = stand_in(tools, "aarch64-linux-gnu-g++", "exit 1")
    assert find_compiler(there).command == (str(path),)
    with pytest.raises(EngineError, match="no C"):  # it is no compiler for macOS
        find_compiler(Processor("apple-m1", "aarch64-macos"))


@pytest.mark.parametrize(
    ("is_zig", "processor", "flags"),
    [
        (False, Processor("x86-64-v3", "x86_64-linux"), ["-march=x86-64-v3"]),
        (False, Processor("cortex-a76", "aarch64-linux"), ["-mcpu=cortex-a76"]),
        (
            True,
            Processor("x86-64-v3", "x86_64-windows"),
            ["-target", "x86_64-windows-gnu", "-mcpu=x86_64_v3"],
        ),
        (
            True,
            Processor("cortex-a76", "aarch64-linux"),
            ["-target", "aarch64-linux-gnu.2.28", "-mcpu=cortex_a76"],
        ),
        (
            True,
            Processor("apple-m1", "aarch64-macos"),
            ["-target", "aarch64-macos", "-mcpu=apple_m1"],
        ),
        (True, Processor(), ["-mcpu=native"]),
    ],
)
def test_each_compiler_is_told_the_processor_in_its_own_words(
    is_zig: bool, processor: Processor, flags: list[str]
) -> None:
    assert Compiler(("c++",), "", is_zig).flags(processor) == flags


@pytest.mark.parametrize(
    ("cpu", "target", "reason"),
    [
        ("-fplugin=x.so", None, "cpu is '-fplugin=x.so'"),
        ("a b", None, "cpu is 'a b'"),
        ("", None, "cpu is ''"),
        ("cortex-a76", "aarch64-linux;rm", "target is"),
        ("native", "aarch64-linux", "--cpu must name its processor"),
        ("cortex-a76", "aarch64-beos", "linux, macos, windows"),
        ("cortex-a76", "aarch64", "linux, macos, windows"),
    ],
)
def test_what_is_no_processor_is_refused_before_it_reaches_a_compiler(
    cpu: str, target: str | None, reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        Processor(cpu, target)


@POSIX
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'note: x' >&2; echo 'a:3: error: bad thing' >&2; echo 'b: error: 2' >&2; exit 1",
            "error: bad thing$",
        ),
        ("echo killed by something >&2; exit 137", "killed by something"),
        ("exit 3", "it said nothing"),
        ("exit 0", "wrote no library"),
    ],
)
def test_a_compiler_that_fails_is_quoted_with_its_first_error(
    tmp_path: Path, tools: Path, script: str, said: str
) -> None:
    path = stand_in(tools, "c++", script)
    with pytest.raises(EngineError, match=said) as caught:
        compiled(tmp_path, Compiler((str(path),), "stand-in 1.0"))
    assert "\n" not in str(caught.value)


@POSIX
def test_a_compiler_that_hangs_is_stopped(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.2)
    path = stand_in(tools, "c++", "exec /bin/sleep 30")
    with pytest.raises(EngineError, match="took over"):
        compiled(tmp_path, Compiler((str(path),), "stand-in 1.0"))


@pytest.mark.skipif(shutil.which("c++") is None, reason="this machine has no C++ compiler")
def test_a_library_can_be_called(tmp_path: Path) -> None:
    import ctypes

    library = ctypes.CDLL(str(compiled(tmp_path, find_compiler(Processor()))))
    assert library.hello() == 7


@pytest.mark.skipif(shutil.which("c++") is None, reason="this machine has no C++ compiler")
def test_a_processor_that_the_compiler_does_not_know_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text(HELLO)
    unknown = Processor("pentium-99")
    with pytest.raises(EngineError, match="pentium-99"):
        compile_library(
            find_compiler(unknown), unknown, [tmp_path / "a.cpp"], tmp_path, tmp_path / "a.so"
        )
