"""Judge a machine's report: findings, remedies, and the backends that would work.

Everything here is computed from a `MachineReport` alone.
"""

from dataclasses import dataclass
from typing import Literal

from ..engines.support import NATIVE, SUPPORT, lowerings_of, numbers, oldest
from ..packages import pip_install
from .needs import (
    AUTO,
    BACKENDS,
    CUDA_BACKENDS,
    FLAVOUR_BACKENDS,
    LATER,
    ONNX_RUNTIME,
    ORT_CUDA,
    RTX_CAPABILITIES,
    RUNTIMES,
    TENSORRT_RANGE,
    wheel_of,
)
from .parse import CUDA_OF_DRIVER, missing_library
from .report import CPU, CUDA, Flavour, MachineReport
from .words import dotted, first_sentence, gigabytes, session_trouble

__all__ = ["Choice", "Diagnosis", "Finding", "Status", "choose", "diagnose"]

Status = Literal["ok", "limited", "missing", "broken"]
NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
# Versions of ONNX Runtime: those that run all lowerings of the CPU, and those whose CUDA an older
# driver can run.
ALL_LOWERINGS = f">={dotted(max(SUPPORT['cpu', name].since for name in lowerings_of('cpu')))}"
OLD_DRIVER = f">={dotted(oldest('cuda'))},<{dotted(max(ORT_CUDA))}"
OLD_DRIVER_RUNTIME = f'pip install "onnxruntime-gpu[cuda,cudnn]{OLD_DRIVER}"'
WHY = {
    "cuda": "a GPU and its provider work",
    NATIVE: "built and proved for this processor",
    "cpu": "no GPU backend works here",
}
JETPACK_TENSORRT = "sudo apt install python3-libnvinfer"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    `remedy` holds commands, or steps in words where there is no command. `blocks` holds the
    backends that cannot work because of this finding.
    """

    status: Status
    subject: str
    text: str
    remedy: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The backend that `auto` would take, None if none works; `later` replaces it once built."""

    backend: str | None
    later: str | None
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and for each backend the subjects of the findings that block it."""

    findings: list[Finding]
    blocked: dict[str, list[str]]
    choice: Choice

    def works(self, backend: str) -> bool:
        """Return whether a backend, or auto, would run here."""
        return self.choice.backend is not None if backend == "auto" else not self.blocked[backend]


def diagnose(report: MachineReport) -> Diagnosis:
    """Judge a machine."""
    findings = [_machine(report), *_jetson(report), *_gpus(report), *_runtimes(report)]
    findings += [*_cuda_provider(report), *_libraries(report)]
    for flavour in report.tensorrt:
        findings += _flavour(report, flavour)
    findings += _bindings(report)
    blocked = {
        backend: [finding.subject for finding in findings if backend in finding.blocks]
        for backend in BACKENDS
    }
    return Diagnosis(findings, blocked, choose([name for name in BACKENDS if not blocked[name]]))


def choose(working: list[str]) -> Choice:
    """Return which of the working backends `auto` takes."""
    first = next((name for name in AUTO if name in working), None)
    later = next((name for name in LATER if name in working), None)
    if first is None and later is None:
        return Choice(None, None, "no backend works here")
    if first is None:
        return Choice(later, None, f"only {later} works here, and no ONNX Runtime")
    why = WHY[first]
    if later is not None:
        why = f"it runs at once, and {later} takes over when its engine is built"
    return Choice(first, later, why)


def _machine(report: MachineReport) -> Finding:
    memory = f"; memory {gigabytes(report.memory)}" if report.memory else ""
    free = f", {gigabytes(report.free_memory)} free" if report.free_memory else ""
    system = f"{report.system} {report.release} {report.architecture}"
    return Finding("ok", "machine", f"{system}, Python {report.python}{memory}{free}")


def _jetson(report: MachineReport) -> list[Finding]:
    jetson = report.jetson
    if jetson is None:
        return []
    mode = jetson.power_mode
    text = f"{jetson.jetpack} (L4T {jetson.l4t}), power mode {mode or 'unknown'}"
    if mode is None or mode.startswith("MAXN"):
        return [Finding("ok", "JetPack", text)]
    remedy = ("sudo nvpmodel -p --verbose  # lists the modes", "sudo nvpmodel -m NUMBER  # of MAXN")
    return [Finding("limited", "JetPack", f"{text}: slower than MAXN", remedy)]


def _gpus(report: MachineReport) -> list[Finding]:
    driver = f"driver {report.driver or 'unknown'}"
    if report.driver_cuda:
        driver += f" (CUDA {dotted(report.driver_cuda)})"
    if report.gpu_error:
        names = ", ".join(gpu.name for gpu in report.gpus) or driver
        text = f"{names}: CUDA does not start: {first_sentence(report.gpu_error)}"
        remedy = (
            "restart the machine, or install NVIDIA's driver again",
            "in a container: start it with --gpus all (NVIDIA Container Toolkit)",
        )
        return [Finding("broken", "GPU", text, remedy, CUDA_BACKENDS)]
    if not report.gpus and report.gpu_on_bus:
        text = "an NVIDIA GPU without its driver"
        install = ("install NVIDIA's driver, on Ubuntu: sudo ubuntu-drivers install",)
        return [Finding("broken", "GPU", text, install, CUDA_BACKENDS)]
    if not report.gpus:
        unsure = "" if report.system == "Linux" else ", or no driver for it"
        return [Finding("missing", "GPU", f"no NVIDIA GPU{unsure}", (), CUDA_BACKENDS)]
    found = []
    for gpu in report.gpus:
        total, free = gpu.total, gpu.free
        if gpu.integrated:
            total, free = report.memory, report.free_memory
        memory = f"{gigabytes(total)}, {gigabytes(free)} free" if total else "memory unknown"
        shared = " (the machine's)" if gpu.integrated else ""
        capability = dotted(gpu.compute_capability) or "unknown"
        text = f"{gpu.name}, compute capability {capability}, {memory}{shared}; {driver}"
        found.append(Finding("ok", "GPU", text))
    return found


def _runtimes(report: MachineReport) -> list[Finding]:
    """Judge ONNX Runtime and its CPU provider."""
    subject, runtime, installed = "ONNX Runtime", report.onnxruntime, _installed(report)
    if len(installed) > 1:
        text = f"{' and '.join(installed)} overwrite each other's files"
        return [Finding("broken", subject, text, _reinstall(report), ONNX_RUNTIME)]
    name = installed[0] if installed else "onnxruntime"
    if not runtime.version:
        if not installed and "No module named 'onnxruntime'" in runtime.error:
            return [Finding("missing", subject, "not installed", _reinstall(report), ONNX_RUNTIME)]
        text = f"{name} cannot be imported: {first_sentence(runtime.error)}"
        return [Finding("broken", subject, text, _reinstall(report), ONNX_RUNTIME)]
    cpu = runtime.provider(CPU)
    if cpu is None or not cpu.works:
        said = session_trouble(cpu.error if cpu else runtime.error)
        text = f"{name} {runtime.version} cannot compute: {said}"
        return [Finding("broken", subject, text, _reinstall(report), ONNX_RUNTIME)]
    loads = ", ".join(found.name for found in runtime.providers if found.works)
    text, runs = f"{name} {runtime.version}, loads {loads}", lowerings_of("cpu", runtime.version)
    if not runs:
        return [Finding("broken", subject, f"{text}; too old", _newer(report), ONNX_RUNTIME)]
    if len(runs) < len(lowerings_of("cpu")):
        text = f"{text}; runs only the lowering {' and '.join(runs)}"
        return [Finding("limited", subject, text, _newer(report))]
    return [Finding("ok", subject, text)]


def _installed(report: MachineReport) -> list[str]:
    """Return the distributions of ONNX Runtime."""
    return [name for name in RUNTIMES if name in report.distributions]


def _newer(report: MachineReport) -> tuple[str, ...]:
    """Return how to get an ONNX Runtime that runs all lowerings."""
    if numbers(report.python) >= (3, 11):
        return (f'pip install --upgrade "onnxruntime{ALL_LOWERINGS}"',)
    if report.jetson is None:
        return (f"take Python 3.11 or later, then: {pip_install('cpu')}",)
    return (  # the system's Python stays for TensorRT
        "sudo apt install python3.11-venv && python3.11 -m venv ~/edgegpt",
        f"~/edgegpt/bin/{pip_install('cpu')}",
    )


def _cuda_provider(report: MachineReport) -> list[Finding]:
    """Judge ONNX Runtime's CUDA provider where there is a GPU, or where it was installed."""
    runtime, subject = report.onnxruntime, "CUDA provider"
    provider = runtime.provider(CUDA)
    if not runtime.version or len(_installed(report)) > 1:
        return []  # `_runtimes` has reported an unusable ONNX Runtime
    if provider is None:
        if not report.gpus:
            return []
        text = f"onnxruntime {runtime.version} is built without it"
        return [Finding("missing", subject, text, _gpu_runtime(report), ("cuda",))]
    needs = _runtime_cuda(report)
    built = f"built for CUDA {needs}" if needs else "of unknown CUDA version"
    if provider.works:
        return [Finding("ok", subject, f"loads and computes, {built}")]
    if not report.gpus:
        return [Finding("limited", subject, f"{built}; it needs a GPU", (), ("cuda",))]
    offered = report.driver_cuda[0] if report.driver_cuda else needs
    if needs > offered:
        text = (
            f"onnxruntime {runtime.version} needs CUDA {needs}; "
            f"driver {report.driver} offers CUDA {dotted(report.driver_cuda)}"
        )
        remedy = (
            f"update the GPU driver to {_driver_for(needs)} or later, or:",
            OLD_DRIVER_RUNTIME,
        )
        return [Finding("broken", subject, text, remedy, ("cuda",))]
    library = missing_library(provider.error)
    if library is None:
        text = f"does not load: {session_trouble(provider.error)}"
        return [Finding("broken", subject, text, _gpu_runtime(report), ("cuda",))]
    text = f"does not load: {library} is missing ({built})"
    return [Finding("broken", subject, text, _brings(report, library, needs), ("cuda",))]


def _driver_for(cuda: int) -> int:
    """Return the oldest driver that runs programs of a CUDA major version."""
    return next(driver for driver, major in CUDA_OF_DRIVER.items() if major <= cuda)


def _runtime_cuda(report: MachineReport) -> int:
    """Return the CUDA major version that the installed onnxruntime needs, 0 if unknown."""
    runtime = report.onnxruntime
    if runtime.cuda:
        return runtime.cuda[0]
    version = numbers(runtime.version)
    return next((cuda for oldest, cuda in ORT_CUDA.items() if version >= oldest), 0)


def _reinstall(report: MachineReport) -> tuple[str, ...]:
    """Return how to remove what is installed, and install the best ONNX Runtime for here."""
    if report.gpus and not _needs_own_wheel(report):
        return _gpu_runtime(report)
    return (*_uninstall(report), pip_install("cpu"))


def _gpu_runtime(report: MachineReport) -> tuple[str, ...]:
    """Return how to install an onnxruntime-gpu that this machine's driver can run."""
    install = OLD_DRIVER_RUNTIME if _old_driver(report) else pip_install("cuda")
    if _needs_own_wheel(report):
        install = "take the wheel for this JetPack from NVIDIA's Jetson Zoo: PyPI has none"
    return (*_uninstall(report), install)


def _uninstall(report: MachineReport) -> tuple[str, ...]:
    installed = _installed(report)
    return (f"pip uninstall -y {' '.join(installed)}",) if installed else ()


def _needs_own_wheel(report: MachineReport) -> bool:
    """Return whether PyPI has no onnxruntime-gpu for this machine: a Jetson before JetPack 7."""
    return report.jetson is not None and _old_driver(report)


def _old_driver(report: MachineReport) -> bool:
    """Return whether the driver is older than the CUDA that PyPI's newest packages need."""
    return bool(report.driver_cuda) and report.driver_cuda[0] < max(ORT_CUDA.values())


def _brings(report: MachineReport, library: str, cuda: int) -> tuple[str, ...]:
    """Return the command that installs a missing library."""
    if report.jetson is not None:
        return ("sudo apt install nvidia-jetpack",)
    package = wheel_of(library, cuda) if cuda else None
    return (f"pip install {package}",) if package else (pip_install("cuda"),)


def _libraries(report: MachineReport) -> list[Finding]:
    """List CUDA's libraries; whether they suffice shows when the provider loads."""
    shown = [found for found in report.libraries if found.name in ("cudart", "cublas", "cudnn")]
    if not shown:
        return []
    text = ", ".join(
        f"{found.name} {found.version}{' (pip)' if found.where == 'pip' else ''}" for found in shown
    )
    return [Finding("ok", "CUDA libraries", text)]


def _flavour(report: MachineReport, flavour: Flavour) -> list[Finding]:
    """Judge a TensorRT where it is installed, or where a GPU could use it."""
    subject, backend = NAMES[flavour.module], FLAVOUR_BACKENDS[flavour.module]
    blocks, remedy = (backend,), _flavour_remedy(report, flavour.module)
    unfit = [gpu for gpu in report.gpus if gpu.compute_capability not in RTX_CAPABILITIES]
    if flavour.module == "tensorrt_rtx" and report.gpus and len(unfit) == len(report.gpus):
        text = f"not for compute capability {dotted(unfit[0].compute_capability) or 'unknown'}"
        return [Finding("missing", subject, text, (), blocks)]
    if not flavour.version:
        if f"No module named '{flavour.module}'" not in flavour.error:
            text = f"cannot be imported: {first_sentence(flavour.error)}"
            return [Finding("broken", subject, text, remedy, blocks)]
        # Without a GPU the backend is blocked already, and there is nothing to install.
        return [Finding("missing", subject, "not installed", remedy, blocks)] if report.gpus else []
    version = numbers(flavour.version)
    if flavour.module == "tensorrt" and not TENSORRT_RANGE[0] <= version < TENSORRT_RANGE[1]:
        text = f"{flavour.version}; this edgegpt is written for {dotted(TENSORRT_RANGE[0])} to 11"
        return [Finding("broken", subject, text, remedy, blocks)]
    if flavour.builds:
        return [Finding("ok", subject, f"{flavour.version}, builds engines")]
    text = f"{flavour.version} cannot build: {first_sentence(flavour.error)}"
    if report.gpus:
        return [Finding("broken", subject, text, remedy, blocks)]
    return [Finding("limited", subject, f"{flavour.version}; needs a GPU", (), blocks)]


def _flavour_remedy(report: MachineReport, module: str) -> tuple[str, ...]:
    if report.jetson is not None and module == "tensorrt":
        # JetPack's TensorRT belongs to the system's Python.
        return (JETPACK_TENSORRT, "in a virtual environment: make it with --system-site-packages")
    if _old_driver(report):
        return (f'pip install {module.replace("_", "-")}-cu12 "cuda-bindings==12.*"',)
    return (pip_install(FLAVOUR_BACKENDS[module]),)


def _bindings(report: MachineReport) -> list[Finding]:
    """Judge cuda-bindings where a TensorRT could use them."""
    usable = any(flavour.version for flavour in report.tensorrt)
    if not (usable and report.gpus):
        return []
    version = report.distributions.get("cuda-bindings", "")
    if not report.bindings_error:
        return [Finding("ok", "cuda-bindings", version or "importable")]
    major = (report.driver_cuda or (max(ORT_CUDA.values()),))[0]
    remedy = (f'pip install "cuda-bindings=={major}.*"',)
    if version:
        text = f"{version} cannot be imported: {first_sentence(report.bindings_error)}"
        return [Finding("broken", "cuda-bindings", text, remedy, LATER)]
    return [Finding("missing", "cuda-bindings", "not installed", remedy, LATER)]
