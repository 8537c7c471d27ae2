"""What is known of ONNX Runtime's kernels on a processor, from its instruction sets."""

import pytest

from edgegpt.runtime.engines.ort import kernels

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    def be(machine: str, features: set[str]) -> None:
        monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
        monkeypatch.setattr(kernels, "cpu_features", lambda: frozenset(features))

    return be


@pytest.mark.parametrize(
    ("machine", "features", "version", "works"),
    [
        ("x86_64", AVX512, "1.29.0", False),
        ("x86_64", AVX512, "1.30.0", True),
        ("x86_64", AVX512 | {"avx512_vnni"}, "1.25.1", True),
        ("aarch64", set(), "1.25.1", True),
    ],
)
def test_old_versions_get_no_int8_products_where_they_would_abort(
    processor, machine: str, features: set[str], version: str, works: bool
) -> None:
    processor(machine, features)
    assert kernels.multiplies_int8(version) is works


@pytest.mark.parametrize(
    ("machine", "features", "works"),
    [
        ("aarch64", {"asimdhp"}, False),
        ("aarch64", {"asimddp"}, True),
        ("arm64", set(), True),  # macOS tells nothing
        ("x86_64", {"sse4_1", "avx"}, False),
        ("x86_64", {"avx2"}, True),
        ("AMD64", set(), True),  # nor does Windows
        ("riscv64", {"v"}, True),
    ],
)
def test_products_of_blocks_need_dotprod_or_avx2(
    processor, machine: str, features: set[str], works: bool
) -> None:
    processor(machine, features)
    assert kernels.multiplies_blocks() is works


@pytest.mark.parametrize(
    ("machine", "features", "sums"),
    [
        ("aarch64", {"asimddp"}, True),
        ("aarch64", {"asimddp", "asimdhp"}, False),
        ("arm64", set(), False),
        ("x86_64", {"avx2"}, True),
        ("AMD64", set(), True),
    ],
)
def test_float16_arithmetic_adds_up_in_float16(
    processor, machine: str, features: set[str], sums: bool
) -> None:
    processor(machine, features)
    assert kernels.sums_in_float32() is sums
