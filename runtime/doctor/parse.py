"""Read numbers and names from the texts of system files and programs.

Parts of an unexpected form are left out; they are no reason to fail.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..engines.support import Version, numbers

__all__ = [
    "CUDA_OF_DRIVER",
    "Library",
    "SmiGpu",
    "jetpack_of",
    "l4t_release",
    "libraries_of_distributions",
    "libraries_of_files",
    "meminfo",
    "missing_library",
    "power_mode",
    "smi_gpus",
]

# L4T release -> JetPack version, from NVIDIA's JetPack archive.
JETPACKS = {
    "35.1": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5": "5.1.3",
    "35.6": "5.1.4",
    "35.6.1": "5.1.5",
    "36.2": "6.0 DP",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
}
MAJOR_JETPACKS = {"35": "5", "36": "6", "38": "7", "39": "7"}
# Oldest driver of each CUDA major version (NVIDIA's CUDA compatibility guide, minor version
# compatibility).
CUDA_OF_DRIVER = {580: 13, 525: 12, 450: 11}
MEBIBYTE = 1 << 20

LIBRARIES = "cudart|cublasLt|cublas|cudnn|cufft|curand|nvinfer|tensorrt_rtx"
LINUX_FILE = re.compile(rf"lib({LIBRARIES})\.so\.(\d+(?:\.\d+)*)$")
# cudart64_12.dll, cudart64_110.dll (11.0), cudnn64_9.dll, nvinfer_10.dll, tensorrt_rtx_1_7.dll
WINDOWS_FILE = re.compile(rf"({LIBRARIES})(?:64)?_(\d+(?:_\d+)*)\.dll$", re.IGNORECASE)
# nvidia-cublas-cu12; nvidia-cublas since CUDA 13; nvidia-cudnn-cu13
DISTRIBUTION = re.compile(r"nvidia-(cuda-runtime|cublas|cudnn|cufft|curand)(?:-cu\d+)?$")
# How the loaders of Linux and Windows, and ONNX Runtime on Windows, name a missing library.
MISSING = (
    re.compile(r"(lib[\w-]+\.so[.\d]*): cannot open shared object file"),
    re.compile(r'depends on "([^"]+\.dll)" which is missing'),
    re.compile(r"Could not find module '(?:[^']*[\\/])?([^'\\/]+\.dll)'"),
)


@dataclass(frozen=True)
class Library:
    """A library of CUDA or TensorRT; `where` is "pip" or the file's path."""

    name: str
    version: str
    where: str


@dataclass(frozen=True)
class SmiGpu:
    """A line of nvidia-smi; memory in bytes, 0 if nvidia-smi does not know it."""

    name: str
    compute_capability: Version
    total: int
    free: int
    driver: str


def smi_gpus(text: str) -> list[SmiGpu]:
    """Read lines of name, compute capability, total and free MiB, driver version."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 4)]
        if len(parts) == 5:
            name, capability, total, free, driver = parts
            driver = driver if numbers(driver) else ""
            gpus.append(SmiGpu(name, numbers(capability), _mib(total), _mib(free), driver))
    return gpus


def l4t_release(text: str) -> str | None:
    """Read 36.4.3 from "# R36 (release), REVISION: 4.3, ..." (/etc/nv_tegra_release)."""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    return f"{match[1]}.{match[2]}" if match else None


def jetpack_of(l4t: str) -> str:
    """Return the JetPack version of an L4T release; for an unknown one only the major number."""
    return JETPACKS.get(l4t.removesuffix(".0")) or MAJOR_JETPACKS.get(l4t.split(".")[0], "unknown")


def power_mode(text: str) -> str | None:
    """Read MAXN from the line "NV Power Mode: MAXN" of `nvpmodel -q`."""
    match = re.search(r"NV Power Mode:\s*([\w.+-]{1,40})\s*$", text, re.MULTILINE)
    return match[1] if match else None


def meminfo(text: str) -> tuple[int, int]:
    """Return the total and available bytes in /proc/meminfo, 0 for a missing entry."""
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB$", text, re.MULTILINE))
    return int(found.get("MemTotal", 0)) * 1024, int(found.get("MemAvailable", 0)) * 1024


def libraries_of_distributions(versions: Mapping[str, str]) -> list[Library]:
    """Return the CUDA libraries that came with pip."""
    found = []
    for name, version in sorted(versions.items()):
        match = DISTRIBUTION.match(name)
        if match:
            found.append(Library(match[1].replace("cuda-runtime", "cudart"), version, "pip"))
    return found


def libraries_of_files(paths: Iterable[str]) -> list[Library]:
    """Return the libraries of CUDA and TensorRT among files, one for each major version.

    The version comes from the file's name. The most exact name counts; on Windows names have only
    the first numbers of the version.
    """
    best: dict[tuple[str, int], Library] = {}
    for path in paths:
        match = LINUX_FILE.search(path) or WINDOWS_FILE.search(path)
        if not match:
            continue
        version = match[2].replace("_", ".")
        if re.fullmatch(r"1\d0", version) and match[1].lower() == "cudart":
            version = f"{version[:2]}.0"
        key = match[1], numbers(version)[0]
        if key not in best or len(numbers(version)) > len(numbers(best[key].version)):
            best[key] = Library(match[1], version, path)
    return [best[key] for key in sorted(best)]


def missing_library(text: str) -> str | None:
    """Return the file that a loader could not find."""
    for pattern in MISSING:
        match = pattern.search(text)
        if match:
            return match[1]
    return None


def _mib(text: str) -> int:
    return int(text) * MEBIBYTE if text.isdecimal() else 0
