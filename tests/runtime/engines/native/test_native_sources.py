"""The sources of the native engine themselves: no warnings, the same bits on ARM, safe reading."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from native_builds import NEEDS_COMPILER
from native_models import (
    CASES,
    PLAIN,
    SOURCES,
    bundle_of,
    case,
    fed,
    narrow,
    opened,
    quantised_bundle,
)

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native.compiler import FLAGS, Compiler, Processor
from edgegpt.runtime.engines.native.constants import constants_of
from edgegpt.runtime.engines.native.weights import pack_weights

pytestmark = NEEDS_COMPILER
SUPPORT = Path(__file__).parents[3] / "support"
PROGRAM = SUPPORT / "native_program.c"
PRODUCTS = SUPPORT / "native_products.cpp"
# Signs are a part of -Wconversion for Clang alone.
WARNINGS = [
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror"),
]
IDS = 290
NEEDS_ZIG = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not installed"
)
ARM = "aarch64-linux-gnu-g++"
NEEDS_ARM = pytest.mark.skipif(
    shutil.which(ARM) is None or shutil.which("qemu-aarch64-static") is None,
    reason="this machine compiles nothing for ARM, or cannot run it",
)
ARM_CPUS = ["cortex-a72", "cortex-a76", "neoverse-v1"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def program(bundle: Bundle, *flags: str, compiler: str = "c++") -> Path:
    """Compile the program in C with the engine of a bundle; pack the weights beside it."""
    folder = bundle.folder
    (folder / "model.h").write_text(constants_of(bundle.manifest))
    pack_weights(bundle, folder / "weights.bin")
    own = [flag for flag in FLAGS if flag not in ("-shared", "-O3", "-s")]
    paths = [f"-I{folder}", f"-I{SOURCES}"]
    for source, language in ((PROGRAM, ["-x", "c", "-std=c11"]), (SOURCES / "engine.cpp", own)):
        out = folder / f"{source.stem}.o"
        command = [compiler, *language, "-O1", "-g", *flags, *paths, "-c", str(source), "-o", out]
        subprocess.run(command, check=True)
    objects = [folder / f"{PROGRAM.stem}.o", folder / "engine.o"]
    subprocess.run([compiler, *objects, *flags, "-pthread", "-o", folder / "program"], check=True)
    return folder / "program"


def run(*words: object, threads: int = 2, cache: int = 0) -> np.ndarray:
    """Run a program that `program` made, by the command `words`; return its logits, flat."""
    folder = Path(str(words[-1])).parent
    values = [folder / "weights.bin", IDS, threads, cache, folder / "logits"]
    done = subprocess.run(
        [str(word) for word in (*words, *values)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return np.fromfile(folder / "logits", dtype=np.float32)


@pytest.mark.parametrize("flags", [["-march=native"], [PLAIN]])
def test_there_is_no_warning(flags: list[str], tmp_path: Path) -> None:
    bundle = quantised_bundle(case("windows and caps"), tmp_path / "bundle", [4, 8], 32)
    (tmp_path / "model.h").write_text(constants_of(bundle.manifest))
    command = ["c++", *FLAGS, *WARNINGS, *flags, f"-I{tmp_path}", f"-I{SOURCES}"]
    subprocess.run([*command, "-fsyntax-only", str(SOURCES / "engine.cpp")], check=True)


@pytest.mark.long
@pytest.mark.parametrize("cpu", ["native", "x86-64-v3", "x86-64"])
@pytest.mark.parametrize("is_zig", [False, pytest.param(True, marks=NEEDS_ZIG)])
@pytest.mark.parametrize("name", CASES)
def test_the_optimiser_finds_nothing_to_warn_of(
    name: str, is_zig: bool, cpu: str, tmp_path: Path
) -> None:
    (tmp_path / "model.h").write_text(
        constants_of(bundle_of(case(name), tmp_path / "bundle").manifest)
    )
    words = (sys.executable, "-m", "ziglang", "c++") if is_zig else ("c++",)
    chosen = Compiler(words, "", is_zig).flags(Processor(cpu))
    command = [*words, *FLAGS, *chosen, *WARNINGS, f"-I{tmp_path}", f"-I{SOURCES}"]
    subprocess.run(
        [*command, str(SOURCES / "engine.cpp"), "-o", str(tmp_path / "engine.so")], check=True
    )


@pytest.mark.long
@NEEDS_ZIG
@pytest.mark.parametrize(
    "processor",
    [
        Processor("x86-64-v3", "x86_64-windows"),
        Processor("cortex-a76", "aarch64-windows"),
        Processor("x86-64-v3", "x86_64-macos"),
        Processor("apple-m1", "aarch64-macos"),
    ],
    ids=lambda processor: processor.target,
)
def test_systems_that_nobody_has_here_compile_without_a_warning(
    processor: Processor, tmp_path: Path
) -> None:
    bundle = quantised_bundle(case("llama"), tmp_path / "bundle", [4, 8], 32)
    (tmp_path / "model.h").write_text(constants_of(bundle.manifest))
    words = (sys.executable, "-m", "ziglang", "c++")
    command = [*words, *FLAGS, *Compiler(words, "", is_zig=True).flags(processor), *WARNINGS]
    paths = [f"-I{tmp_path}", f"-I{SOURCES}", str(SOURCES / "engine.cpp")]
    subprocess.run([*command, *paths, "-o", str(tmp_path / "engine")], check=True)
    assert (tmp_path / "engine").stat().st_size > 100_000


@pytest.mark.long
@pytest.mark.skipif(shutil.which("clang-tidy") is None, reason="clang-tidy is not installed")
@pytest.mark.parametrize("flags", [["-march=x86-64-v4"], ["-march=x86-64-v3"], [PLAIN]])
@pytest.mark.parametrize("name", ["llama", "parallel"])
def test_clang_tidy_finds_nothing(name: str, flags: list[str], tmp_path: Path) -> None:
    """`.clang-tidy` says what is looked for."""
    bundle = quantised_bundle(case(name), tmp_path / "bundle", [4, 8, 32], 32)
    (tmp_path / "model.h").write_text(constants_of(bundle.manifest))
    options = ["-std=c++17", "-fno-exceptions", "-fno-rtti", f"-I{tmp_path}", f"-I{SOURCES}"]
    done = subprocess.run(
        ["clang-tidy", "--quiet", str(SOURCES / "engine.cpp"), "--", *options, *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[4],  # where its rules are
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.long
def test_no_content_of_the_weights_leads_out_of_them(tmp_path: Path) -> None:
    bundle = quantised_bundle(case("llama"), tmp_path / "bundle", [4, 8], 32)
    made = program(bundle, *SANITIZERS, "-march=native")
    packed = bundle.folder / "weights.bin"
    whole, rng = packed.read_bytes(), np.random.default_rng(0)
    for _ in range(20):
        packed.write_bytes(whole[:64] + rng.integers(0, 256, len(whole) - 64, np.uint8).tobytes())
        command = [made, packed, str(IDS), "2", "0", bundle.folder / "logits"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Rows of numbers that are none have no equal bits.
        assert done.returncode in (0, 101)
        assert not done.stderr


def emulator(cpu: str) -> list[str]:
    known = {"neoverse-v1": "max"}  # of older emulators
    return ["qemu-aarch64-static", "-cpu", known.get(cpu, cpu)]


@pytest.mark.long
@NEEDS_ARM
@pytest.mark.parametrize("cpu", ARM_CPUS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("llama", "integers"), ("odd sizes", "integers"), ("windows and caps", "integers")),
        *(("odd sizes", "BF16"), ("biases by distance", "F16")),
    ],
)
def test_arm_has_the_same_bits(name: str, kind: str, cpu: str, tmp_path: Path) -> None:
    model, folder = case(name), tmp_path / "bundle"
    if kind == "integers":
        bundle = quantised_bundle(model, folder, [4, 8], 32)
    else:
        narrow(model, kind)
        bundle = bundle_of(model, folder, kind=kind)
    made = program(bundle, f"-mcpu={cpu}", "-static", *WARNINGS, compiler=ARM)
    ids = np.arange(IDS) * 7 % bundle.manifest.model["vocab_size"]
    wanted = fed(opened(bundle).new_rows(1, IDS), 0, ids, [IDS])
    np.testing.assert_array_equal(run(*emulator(cpu), made), wanted.reshape(-1))


@pytest.mark.long
@NEEDS_ARM
@pytest.mark.parametrize("cpu", ARM_CPUS)
def test_integers_have_the_same_products_on_arm_for_any_number_of_rows(
    cpu: str, tmp_path: Path
) -> None:
    def made(name: str, compiler: str, *flags: str) -> Path:
        path = tmp_path / name
        own = [flag for flag in FLAGS if flag not in ("-shared", "-s")]
        command = [compiler, *own, *WARNINGS, *flags, f"-I{SOURCES}", str(PRODUCTS), "-o", path]
        subprocess.run(command, check=True)
        return path

    on_arm = made("arm", ARM, f"-mcpu={cpu}", "-static")
    for words in ([made("plain", "c++", PLAIN)], [*emulator(cpu), on_arm]):
        subprocess.run([*words, tmp_path / f"{words[-1].name}.out"], check=True)
    wanted, found = (np.fromfile(tmp_path / f"{n}.out", np.float32) for n in ("plain", "arm"))
    assert len(wanted) == 2 * 4 * (1 + 3 + 4) * 16 * sum(range(10))
    assert np.count_nonzero(wanted) > 0.9 * len(wanted)
    np.testing.assert_array_equal(found, wanted)
    command = ["aarch64-linux-gnu-objdump", "-d", on_arm]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ("usmmla" in code) is (cpu == "neoverse-v1")  # which multiplies matrices of bytes
