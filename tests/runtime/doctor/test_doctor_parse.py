"""The texts of system files and programs that `edgegpt doctor` reads."""

import pytest

from edgegpt.runtime.doctor.needs import wheel_of
from edgegpt.runtime.doctor.parse import (
    jetpack_of,
    l4t_release,
    libraries_of_distributions,
    libraries_of_files,
    meminfo,
    missing_library,
    power_mode,
    smi_gpus,
)
from edgegpt.runtime.engines.support import numbers


@pytest.mark.parametrize(
    ("text", "release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", "6.2"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "36.4.0", "6.1"),
        ("# R36 (release), REVISION: 9.1, GCID: 1", "36.9.1", "6"),
        ("# R35 (release), REVISION: 4.1, GCID: 1, BOARD: t186ref", "35.4.1", "5.1.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464", "38.2.0", "7.0"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727", "39.2.0", "7.2"),
        ("# R77 (release), REVISION: 1.0", "77.1.0", "unknown"),
    ],
)
def test_a_jetson_release_becomes_its_jetpack(text: str, release: str, jetpack: str) -> None:
    assert l4t_release(f"{text}\n# KERNEL_VARIANT: oot\n") == release
    assert jetpack_of(release) == jetpack


def test_another_text_is_no_jetson_release() -> None:
    assert l4t_release("Ubuntu 24.04") is None


def test_nvidia_smi_tells_of_every_gpu() -> None:
    first, second = smi_gpus(
        "NVIDIA RTX A6000, 8.6, 49140, 48539, 550.54.15\nOdd, Name, 12.0, 1, 0, 550.54.15\nshort\n"
    )
    assert (first.name, first.compute_capability) == ("NVIDIA RTX A6000", (8, 6))
    assert (first.total, first.free, first.driver) == (49140 << 20, 48539 << 20, "550.54.15")
    assert (second.name, second.compute_capability) == ("Odd, Name", (12, 0))


def test_nvidia_smi_may_not_know_the_memory() -> None:
    (gpu,) = smi_gpus("Orin (nvgpu), 8.7, [N/A], [N/A], [N/A]")
    assert (gpu.name, gpu.total, gpu.free, gpu.driver) == ("Orin (nvgpu)", 0, 0, "")


def test_the_power_mode_is_read() -> None:
    assert (
        power_mode("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n")
        == "MAXN_SUPER"
    )
    assert power_mode("nvpmodel: permission denied") is None


def test_memory_is_read_in_kibibytes() -> None:
    assert meminfo("MemTotal:  2000 kB\nMemFree:  1 kB\nMemAvailable:  1000 kB\n") == (
        2000 * 1024,
        1000 * 1024,
    )
    assert meminfo("nothing") == (0, 0)


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("/usr/local/cuda-12.6/lib64/libcudart.so.12.6.68", "cudart", "12.6.68"),
        ("/usr/lib/x86_64-linux-gnu/libcublasLt.so.13", "cublasLt", "13"),
        ("/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.3.0", "nvinfer", "10.3.0"),
        ("C:\\cuda\\bin\\cudart64_12.dll", "cudart", "12"),
        ("C:\\cuda\\bin\\cudart64_110.dll", "cudart", "11.0"),
        ("C:\\trt\\lib\\tensorrt_rtx_1_7.dll", "tensorrt_rtx", "1.7"),
        ("C:\\Program Files\\NVIDIA\\CUDNN\\v9.3\\bin\\12.6\\cudnn64_9.dll", "cudnn", "9"),
    ],
)
def test_a_file_name_tells_library_and_version(path: str, name: str, version: str) -> None:
    (library,) = libraries_of_files([path])
    assert (library.name, library.version, library.where) == (name, version, path)


def test_of_each_major_version_the_most_exact_name_counts() -> None:
    found = libraries_of_files(
        ["/a/libcudnn.so.9", "/a/libcudnn.so.9.3.0", "/b/libcudnn.so.9", "/a/libcudnn.so.8", "/a/x"]
    )
    assert [library.version for library in found] == ["8", "9.3.0"]


def test_libraries_of_pip_are_found_under_old_and_new_names() -> None:
    versions = {
        "nvidia-cublas-cu12": "12.6.4.1",
        "nvidia-cuda-runtime": "13.0.96",
        "nvidia-cudnn-cu13": "9.14.0.64",
        "nvidia-ml-py": "13.0.0",
    }
    found = [(library.name, library.version) for library in libraries_of_distributions(versions)]
    assert found == [("cublas", "12.6.4.1"), ("cudart", "13.0.96"), ("cudnn", "9.14.0.64")]


@pytest.mark.parametrize(
    ("text", "library", "package"),
    [
        (
            "error: libcublasLt.so.13: cannot open shared object file",
            "libcublasLt.so.13",
            "nvidia-cublas",
        ),
        (
            "OSError: libcudnn_adv.so.9: cannot open shared object file",
            "libcudnn_adv.so.9",
            "nvidia-cudnn-cu13",
        ),
        (
            'which depends on "cublasLt64_13.dll" which is missing.',
            "cublasLt64_13.dll",
            "nvidia-cublas",
        ),
        ("Could not find module 'C:\\a\\cufft64_12.dll' (or one", "cufft64_12.dll", "nvidia-cufft"),
        (
            "libcudart.so.13: cannot open shared object file",
            "libcudart.so.13",
            "nvidia-cuda-runtime",
        ),
        ("libodd.so.1: cannot open shared object file", "libodd.so.1", None),
    ],
)
def test_the_missing_library_is_named_with_its_package(
    text: str, library: str, package: str | None
) -> None:
    assert missing_library(text) == library
    assert wheel_of(library, 13) == package


def test_packages_for_cuda_12_have_their_own_names() -> None:
    assert wheel_of("libcublasLt.so.12", 12) == "nvidia-cublas-cu12"
    assert wheel_of("libcudnn.so.9", 12) == "nvidia-cudnn-cu12"


def test_another_failure_names_no_library() -> None:
    assert missing_library("CUDA failure 35: CUDA driver version is insufficient") is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.23.2+cu126", (1, 23, 2)), ("10.16.2", (10, 16, 2)), ("13.0rc1", (13, 0)), ("odd", ())],
)
def test_versions_become_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert numbers(version) == expected
