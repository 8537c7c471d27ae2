"""Gather, through a `Probe`, what is installed on a machine and which parts of it work."""

from dataclasses import dataclass
from typing import Any

from ..control_groups import memory_limit
from ..engines.ort.cpu import PROVIDER as CPU
from ..engines.ort.cuda_provider import PROVIDER as CUDA
from ..engines.support import Version, numbers
from .needs import FLAVOUR_BACKENDS
from .parse import (
    CUDA_OF_DRIVER,
    Library,
    SmiGpu,
    jetpack_of,
    l4t_release,
    libraries_of_distributions,
    libraries_of_files,
    meminfo,
    power_mode,
    smi_gpus,
)
from .probe import Probe, Ran
from .trial import MARK, told

__all__ = [
    "CPU",
    "CUDA",
    "Flavour",
    "Gpu",
    "Jetson",
    "MachineReport",
    "OnnxRuntime",
    "Provider",
    "examine",
    "find_jetson",
]

SMI = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version",
    "--format=csv,noheader,nounits",
)
PROGRAM_SECONDS = 15.0
# Providers that are not tried, because they send their work to a service.
REMOTE = ("AzureExecutionProvider",)
# Beginnings of the names of distributions whose versions are reported.
OF_INTEREST = ("onnxruntime", "ort-nightly", "nvidia-", "tensorrt", "cuda-")
LINUX_LIBRARIES = (
    "/usr/local/cuda*/lib64/lib*.so.*",
    "/usr/local/cuda*/targets/*/lib/lib*.so.*",
    "/usr/lib/*-linux-gnu/lib*.so.*",
    "/usr/lib64/lib*.so.*",
)
WINDOWS_LIBRARIES = "C:\\Program Files\\NVIDIA\\CUDNN\\v*\\bin\\*\\*.dll"


@dataclass(frozen=True)
class Gpu:
    """One GPU. Memory in bytes, 0 if unknown; an integrated GPU shares the machine's memory."""

    name: str
    compute_capability: Version
    total: int
    free: int
    integrated: bool


@dataclass(frozen=True)
class Jetson:
    """A Jetson's releases, and its power mode, which is None if nvpmodel did not tell it."""

    l4t: str
    jetpack: str
    power_mode: str | None


@dataclass(frozen=True)
class Provider:
    """The result of a session with one of ONNX Runtime's execution providers."""

    name: str
    works: bool
    error: str


@dataclass(frozen=True)
class OnnxRuntime:
    """The importable onnxruntime; `cuda` is the CUDA version that it was built with."""

    version: str
    cuda: Version
    available: list[str]
    providers: list[Provider]
    error: str

    def provider(self, name: str) -> Provider | None:
        """Return the result of the provider `name`; None if it is not in this build."""
        return next((found for found in self.providers if found.name == name), None)


@dataclass(frozen=True)
class Flavour:
    """A TensorRT module; `version` is "" if it cannot be imported."""

    module: str
    version: str
    builds: bool
    error: str


@dataclass(frozen=True)
class MachineReport:
    """Everything that `doctor` found. Memory in bytes, 0 if unknown.

    `driver` is the version of the GPU driver, and `driver_cuda` the newest CUDA that it can run.
    `gpu_error` says why the GPUs of the machine could not be used, and `bindings_error` why the
    distribution cuda-bindings could not; each is "" without an error. `gpu_on_bus` says whether
    there is an NVIDIA GPU on the PCI bus, whatever the driver says; Linux only.
    """

    system: str
    release: str
    architecture: str
    python: str
    memory: int
    free_memory: int
    jetson: Jetson | None
    gpus: list[Gpu]
    driver: str
    driver_cuda: Version
    gpu_error: str
    gpu_on_bus: bool
    distributions: dict[str, str]
    libraries: list[Library]
    onnxruntime: OnnxRuntime
    tensorrt: list[Flavour]
    bindings_error: str


def examine(probe: Probe) -> MachineReport:
    """Put every question once."""
    platform, text = probe.platform(), probe.read("/proc/meminfo")
    memory, free = meminfo(text) if text else probe.memory()
    limit = memory_limit(probe.read)
    if limit is not None:
        memory, free = min(memory, limit.limit), min(free, limit.left)
    distributions = {
        name: version
        for name, version in sorted(probe.distributions().items())
        if name.startswith(OF_INTEREST)
    }
    jetson = find_jetson(probe)
    driver = _driver(probe)
    bindings = probe.trial("bindings")
    return MachineReport(
        system=platform["system"],
        release=platform["release"],
        architecture=platform["machine"],
        python=platform["python"],
        memory=memory,
        free_memory=free,
        jetson=jetson,
        gpus=driver.gpus,
        driver=driver.version,
        driver_cuda=driver.cuda,
        gpu_error=driver.error,
        gpu_on_bus=_gpu_on_bus(probe),
        distributions=distributions,
        libraries=libraries_of_distributions(distributions) + libraries_of_files(_files(probe)),
        # If the driver hangs, every trial that uses it would hang, too.
        onnxruntime=_onnxruntime(probe, only_cpu=driver.hangs),
        tensorrt=[] if driver.hangs else [_flavour(probe, module) for module in FLAVOUR_BACKENDS],
        bindings_error=_failure(bindings, told(bindings.out), "imported"),
    )


def find_jetson(probe: Probe) -> Jetson | None:
    """Return what a Jetson says about itself; None on another machine."""
    l4t = l4t_release(probe.read("/etc/nv_tegra_release") or "")
    if l4t is None:
        return None
    ran = probe.run(("nvpmodel", "-q"), PROGRAM_SECONDS)
    return Jetson(l4t, jetpack_of(l4t), power_mode(ran.out) if ran else None)


@dataclass(frozen=True)
class _Driver:
    """The GPU driver: its version, the newest CUDA that it can run, its GPUs, and its error."""

    version: str
    cuda: Version
    gpus: list[Gpu]
    error: str
    hangs: bool = False


def _driver(probe: Probe) -> _Driver:
    """Ask the CUDA driver and nvidia-smi.

    The CUDA driver knows the GPUs best. nvidia-smi knows the driver's version, and may see GPUs
    that the library of the driver, as this process finds it, does not see.
    """
    ran = probe.run(SMI, PROGRAM_SECONDS)
    if ran is not None and ran.code is None:
        error = f"nvidia-smi did not answer in {PROGRAM_SECONDS:.0f} s: the driver hangs"
        return _Driver("", (), [], error, hangs=True)
    seen = smi_gpus(ran.out) if ran is not None and ran.code == 0 else []
    driver = seen[0].driver if seen else ""
    trial = probe.trial("gpus")
    facts = told(trial.out)
    version = int(facts.get("cuda") or 0)  # 1000 * major + 10 * minor
    cuda = (version // 1000, version % 1000 // 10) if version else _cuda_of(driver)
    if facts.get("gpus"):
        return _Driver(driver, cuda, [_gpu(entry) for entry in facts["gpus"]], "")
    error = _failure(trial, facts, "gpus") if seen or "cuda" in facts else ""
    return _Driver(driver, cuda, [_gpu_of_smi(gpu) for gpu in seen], error, trial.code is None)


def _gpu(entry: dict[str, Any]) -> Gpu:
    capability = tuple(int(part) for part in entry["compute_capability"])
    return Gpu(entry["name"], capability, entry["total"], entry["free"], entry["integrated"])


def _gpu_of_smi(gpu: SmiGpu) -> Gpu:
    return Gpu(gpu.name, gpu.compute_capability, gpu.total, gpu.free, gpu.total == 0)


def _cuda_of(driver: str) -> Version:
    major = (numbers(driver) or (0,))[0]
    return next(((cuda,) for oldest, cuda in CUDA_OF_DRIVER.items() if major >= oldest), ())


def _gpu_on_bus(probe: Probe) -> bool:
    """Look for a display controller (PCI class 03) of NVIDIA (vendor 10de)."""
    for path in probe.glob("/sys/bus/pci/devices/*/vendor"):
        kind = probe.read(path.removesuffix("vendor") + "class") or ""
        if (probe.read(path) or "").strip() == "0x10de" and kind.startswith("0x03"):
            return True
    return False


def _files(probe: Probe) -> list[str]:
    """Return the files in the folders of the loader and of common CUDA installations."""
    if probe.platform()["system"] == "Windows":
        folders = [*probe.environment("PATH").split(";"), probe.environment("CUDA_PATH") + "\\bin"]
        patterns = [f"{folder}\\*_*.dll" for folder in folders if folder.strip("\\")]
        patterns.append(WINDOWS_LIBRARIES)
    else:
        folders = probe.environment("LD_LIBRARY_PATH").split(":")
        patterns = [f"{folder}/lib*.so.*" for folder in folders if folder]
        patterns += LINUX_LIBRARIES
    files = [path for pattern in patterns for path in probe.glob(pattern)]
    cache = probe.run(("ldconfig", "-p"), PROGRAM_SECONDS)
    if cache is not None:
        files += [line.partition(" => ")[2] for line in cache.out.splitlines()]
    return files


def _onnxruntime(probe: Probe, only_cpu: bool) -> OnnxRuntime:
    """Try the CPU provider, whose trial lists the available ones, then the others if allowed."""
    first = probe.trial("provider", CPU)
    facts = told(first.out)
    available = [str(name) for name in facts.get("available", [])]
    others = [name for name in available if name not in (CPU, *REMOTE) and not only_cpu]
    trials = {CPU: first, **{name: probe.trial("provider", name) for name in others}}
    providers = [_provider(name, ran) for name, ran in trials.items()] if available else []
    return OnnxRuntime(
        version=str(facts.get("version", "")),
        cuda=numbers(str(facts.get("cuda") or "")),
        available=available,
        providers=providers,
        error="" if available else _failure(first, facts, "available"),
    )


def _provider(name: str, ran: Ran) -> Provider:
    """Judge a trial: the session must have the requested provider, and compute correctly."""
    facts = told(ran.out)
    works = facts.get("loaded", [])[:1] == [name] and facts.get("computed") is True
    if works:
        return Provider(name, True, "")
    if facts.get("computed") is False:
        return Provider(name, False, "it computes wrong numbers")
    return Provider(name, False, _failure(ran, facts, "computed"))


def _flavour(probe: Probe, module: str) -> Flavour:
    ran = probe.trial("tensorrt", module)
    facts = told(ran.out)
    builds = facts.get("builder") is True
    return Flavour(module, str(facts.get("version", "")), builds, _failure(ran, facts, "builder"))


def _failure(ran: Ran, facts: dict[str, Any], expected: str) -> str:
    """Return why a trial did not print `expected`: all output of it and its libraries."""
    if facts.get(expected):
        return ""
    if ran.code is None:
        return "it did not end in time and was stopped"
    noise = "\n".join(line for line in ran.out.splitlines() if not line.startswith(MARK))
    said = [str(facts.get("error", "")), noise.strip(), ran.err.strip()]
    if ran.code != 0:
        said.insert(0, f"it crashed with exit code {ran.code}")
    return "\n".join(part for part in said if part) or f"it does not tell {expected}"
