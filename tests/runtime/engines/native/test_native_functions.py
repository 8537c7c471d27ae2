"""The functions that the native engine computes itself: their errors, and equal bits everywhere."""

import ctypes
import math
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from native_builds import NEEDS_COMPILER
from native_models import PLAIN, SOURCES

from edgegpt.runtime.engines.native.compiler import FLAGS

pytestmark = NEEDS_COMPILER
CODE = Path(__file__).parents[3] / "support" / "native_functions.cpp"
COUNT = 1 << 16
TARGETS = {"best": ["-march=native"], "plain": ["-march=native", PLAIN]}
if platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text():
    TARGETS["avx2"] = ["-march=x86-64-v3"]
SPECIAL = [0.0, -0.0, math.inf, -math.inf, 1e-40, -1e-40, 88.7, -87.4, -104.0, 1e30, -1e30, 0.925]
Library = ctypes.CDLL


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    found = {}
    for name, flags in TARGETS.items():
        path = tmp_path_factory.mktemp("functions") / f"{name}.so"
        command = ["c++", *FLAGS, "-fvisibility=default", *flags, f"-I{SOURCES}", str(CODE)]
        subprocess.run([*command, "-o", str(path)], check=True)
        found[name] = ctypes.CDLL(str(path))
        found[name].sum_of.restype = found[name].largest_of.restype = ctypes.c_float
    return found


def computed(library: Library, name: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    getattr(library, name)(place(x), place(y), len(x))
    return y


def place(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def units(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest error in units of the last place of the exact result."""
    return float((np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))).max())


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "exact", "low", "high", "limit"),
    [
        ("exponentials", np.exp, -87.3, 88.0, 1.5),
        ("tanhs", np.tanh, -12.0, 12.0, 2.0),
        ("erfs", np.vectorize(math.erf), -5.0, 5.0, 2.0),
        ("silus", silu, -80.0, 80.0, 3.0),
    ],
)
def test_errors_are_about_one_unit_in_the_last_place(
    libraries: dict[str, Library],
    name: str,
    exact: Callable[[np.ndarray], np.ndarray],
    low: float,
    high: float,
    limit: float,
) -> None:
    wide = np.linspace(low, high, COUNT, dtype=np.float32)
    small = np.geomspace(1e-6, 1.0, COUNT, dtype=np.float32)
    for x in (wide, small, -small):
        assert units(computed(libraries["best"], name, x), exact(x.astype(np.float64))) < limit


def test_gelu_is_exact_to_the_precision_of_its_argument(libraries: dict[str, Library]) -> None:
    x = np.linspace(-8.0, 8.0, COUNT, dtype=np.float32)
    error = np.abs(computed(libraries["best"], "gelus", x) - gelu(x.astype(np.float64)))
    assert (error / np.maximum(np.abs(x), 1e-3)).max() < 1.5e-7


def test_exponentials_end_as_they_should(libraries: dict[str, Library]) -> None:
    x = np.array([-math.inf, -87.4, -1e30, 0.0, math.inf, math.nan] + [1.0] * 10, dtype=np.float32)
    y = computed(libraries["best"], "exponentials", x)
    assert y[:4].tolist() == [0, 0, 0, 1]
    assert y[4] > 1e38
    assert math.isnan(y[5])


@pytest.mark.parametrize("name", ["exponentials", "tanhs", "erfs", "gelus", "silus"])
def test_all_vectors_give_the_same_bits(libraries: dict[str, Library], name: str) -> None:
    random = np.random.default_rng(0).normal(0, 20, COUNT).astype(np.float32)
    x = np.concatenate([random, np.array(SPECIAL * 16, dtype=np.float32)])
    found = [computed(library, name, x) for library in libraries.values()]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_sums_have_one_order_and_halves_are_exact(libraries: dict[str, Library]) -> None:
    x = np.random.default_rng(0).normal(0, 1, 16).astype(np.float32) * 1e4
    half = np.arange(0, 1 << 16, dtype=np.uint16).reshape(-1, 16)
    for library in libraries.values():
        folded = x.copy()
        for width in (8, 4, 2, 1):
            folded = folded[:width] + folded[width : 2 * width]
        assert library.sum_of(place(x)) == folded[0]
        assert library.largest_of(place(x)) == x.max()
        y = np.empty(16, dtype=np.float32)
        for row in half:
            library.halves(place(row), place(y))
            np.testing.assert_array_equal(y, row.view(np.float16).astype(np.float32))
        for first, end in [(0, 16), (3, 9), (-4, 2), (15, 40), (5, 5)]:
            library.between_of(place(x), place(y), first, end)
            kept = (np.arange(16) >= first) & (np.arange(16) < end)
            np.testing.assert_array_equal(y, np.where(kept, x, 0))


def test_a_thread_that_comes_late_is_left_out(libraries: dict[str, Library]) -> None:
    """A thread that the system does not run would keep the others waiting at each barrier."""
    late, took_part = np.array([True, True, False]), np.zeros(3, dtype=np.int32)
    assert libraries["best"].meetings(2, place(late), place(took_part), 3) == 0
    assert took_part.tolist() == [2, 2, 1]


@pytest.mark.parametrize(
    ("threads", "waits", "took_part"),
    [
        (2, 2, [2, 2, *[1] * 4, *[2] * 300]),  # an accident
        (2, 99, [2, 2, *[1] * 4, 2, *[1] * 8, 2, *[1] * 16, 2, *[1] * 32, 2, *[1] * 64, *[2] * 9]),
        (6, 4, [6, 6, 3, 3, *[1] * 8, *[2] * 8, *[4] * 8, *[6] * 9]),
        (4, 0, [4] * 20),
    ],
)
def test_all_are_tried_again_soon_and_then_less_and_less_often(
    libraries: dict[str, Library], threads: int, waits: int, took_part: list[int]
) -> None:
    waited = np.arange(len(took_part)) < waits
    found = np.zeros(len(took_part), dtype=np.int32)
    libraries["best"].attendances(threads, place(waited), place(found), len(found))
    assert found.tolist() == took_part
