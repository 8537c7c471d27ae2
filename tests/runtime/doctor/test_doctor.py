"""What `edgegpt doctor` says of recorded machines, and of the same machines with a defect."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from recorded_machine import RecordedMachine

from edgegpt.runtime.doctor import diagnosis, trial
from edgegpt.runtime.doctor.diagnosis import Diagnosis, Finding, diagnose
from edgegpt.runtime.doctor.needs import BACKENDS
from edgegpt.runtime.doctor.report import MachineReport, examine

ORIN, THOR, WINDOWS = "jetson-orin-jetpack-6.2", "jetson-thor-jetpack-7.2", "windows-rtx"
CPU, CUDA = "provider CPUExecutionProvider", "provider CUDAExecutionProvider"


def _report(name: str, **changes: Any) -> MachineReport:
    """Examine a recorded machine after `changes` to the tables of its recording."""
    machine = RecordedMachine(name)
    for table, change in changes.items():
        machine.facts[table].update(change)
    return examine(machine)


def _diagnose(name: str, **changes: Any) -> Diagnosis:
    return diagnose(_report(name, **changes))


def _finding(found: Diagnosis, subject: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.subject == subject]
    return finding


def _trial(*facts: dict[str, Any], code: int | None = 0, err: str = "") -> dict[str, Any]:
    return {"code": code, "out": [trial.MARK + json.dumps(fact) for fact in facts], "err": [err]}


def _session(loaded: list[str], computed: bool | None = None) -> dict[str, Any]:
    """Return the trial of an onnxruntime-gpu whose session got the providers `loaded`."""
    first = {"version": "1.31.1", "cuda": "13.0", "available": [CUDA.split()[1], CPU.split()[1]]}
    facts = [first, {"loaded": loaded}]
    return _trial(*facts, *([] if computed is None else [{"computed": computed}]))


def test_the_graph_of_the_trial_is_one_matmul() -> None:
    shape = [2, 2]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "t", [x], [y])
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == trial.GRAPH
    assert (np.array(trial.X) @ np.array(trial.X)).tolist() == trial.Y


def test_a_jetson_names_its_jetpack_and_its_shared_memory() -> None:
    found = _diagnose(ORIN)
    assert _finding(found, "JetPack").text == "6.2 (L4T 36.4.3), power mode MAXN"
    gpu = _finding(found, "GPU").text
    assert "Orin, compute capability 8.7, 16.4 GB, 13.1 GB free (the machine's)" in gpu
    assert "driver 540.4.0 (CUDA 12.6)" in gpu
    assert _finding(found, "CUDA libraries").text == "cublas 12.6.1.4, cudart 12.6.68, cudnn 9.3.0"


def test_the_old_runtime_of_jetpack_6_gets_a_newer_python_beside_it() -> None:
    finding = _finding(_diagnose(ORIN), "ONNX Runtime")
    assert "runs only the lowering legacy" in finding.text
    assert "python3.11 -m venv ~/edgegpt" in finding.remedy[0]
    assert finding.remedy[1] == '~/edgegpt/bin/pip install "edgegpt-toolkit[cpu]"'
    assert finding.blocks == ()


def test_cuda_bindings_fit_the_cuda_of_the_driver() -> None:
    finding = _finding(_diagnose(ORIN), "cuda-bindings")
    assert finding.remedy == ('pip install "cuda-bindings==12.*"',)


def test_cuda_bindings_that_cannot_be_imported_block_tensorrt() -> None:
    found = _diagnose(THOR, trials={"bindings": _trial({"error": "ImportError: libcuda.so.1"})})
    finding = _finding(found, "cuda-bindings")
    assert (finding.status, finding.remedy) == ("broken", ('pip install "cuda-bindings==13.*"',))
    assert finding.text == "13.2.0 cannot be imported: ImportError: libcuda.so.1"
    assert not found.works("tensorrt")
    assert found.choice == diagnosis.Choice("cuda", None, "a GPU and its provider work")


def test_jetpack_brings_its_own_tensorrt() -> None:
    missing = {
        "tensorrt tensorrt": _trial({"error": "ModuleNotFoundError: No module named 'tensorrt'"})
    }
    finding = _finding(_diagnose(ORIN, trials=missing), "TensorRT")
    assert finding.status == "missing"
    assert finding.remedy[0] == "sudo apt install python3-libnvinfer"
    assert "--system-site-packages" in finding.remedy[1]


def test_a_slow_power_mode_is_told_with_the_command_for_a_faster_one() -> None:
    finding = _finding(_diagnose(THOR), "JetPack")
    assert finding.text == "7.2 (L4T 39.2.0), power mode 120W: slower than MAXN"
    assert finding.remedy[1].startswith("sudo nvpmodel -m")


def test_windows_names_the_missing_dll_and_its_package() -> None:
    found = _diagnose(WINDOWS)
    finding = _finding(found, "CUDA provider")
    assert "cudnn64_9.dll is missing" in finding.text
    assert finding.remedy == ("pip install nvidia-cudnn-cu13",)
    assert _finding(found, "CUDA libraries").text == "cublas 13, cudart 13"
    assert "memory 34.3 GB, 21.5 GB free" in _finding(found, "machine").text


def test_two_runtimes_are_uninstalled_and_the_right_one_installed() -> None:
    finding = _finding(_diagnose("both-wheels"), "ONNX Runtime")
    assert finding.text == "onnxruntime and onnxruntime-gpu overwrite each other's files"
    assert finding.remedy == (
        "pip uninstall -y onnxruntime onnxruntime-gpu",
        'pip install "edgegpt-toolkit[cuda]"',
    )


def test_a_runtime_for_cuda_13_on_a_driver_for_cuda_12_is_a_conflict() -> None:
    finding = _finding(_diagnose("cuda-12-desktop"), "CUDA provider")
    assert finding.text == "onnxruntime 1.31.1 needs CUDA 13; driver 550.144.03 offers CUDA 12.4"
    assert finding.remedy == (
        "update the GPU driver to 580 or later, or:",
        'pip install "onnxruntime-gpu[cuda,cudnn]>=1.25,<1.27"',
    )


def test_an_old_driver_gets_the_packages_for_its_cuda() -> None:
    found = _diagnose("cuda-12-desktop")
    remedy = ('pip install tensorrt-rtx-cu12 "cuda-bindings==12.*"',)
    assert _finding(found, "TensorRT for RTX").remedy == remedy


def test_without_a_gpu_nobody_is_told_to_install_what_needs_one() -> None:
    found = _diagnose("no-gpu")
    assert not any(finding.remedy for finding in found.findings)
    assert all(found.blocked[backend] == ["GPU"] for backend in BACKENDS if backend != "cpu")


def test_a_gpu_on_the_bus_without_a_driver_is_told_apart_from_none() -> None:
    machine = RecordedMachine("no-gpu")
    assert _finding(diagnose(examine(machine)), "GPU").text == "no NVIDIA GPU"
    device = "/sys/bus/pci/devices/0000:01:00.0"
    machine.facts["paths"].append(f"{device}/vendor")
    machine.facts["files"] |= {f"{device}/vendor": ["0x10de"], f"{device}/class": ["0x040300"]}
    assert _finding(diagnose(examine(machine)), "GPU").text == "no NVIDIA GPU"  # its sound device
    machine.facts["files"][f"{device}/class"] = ["0x030000"]
    finding = _finding(diagnose(examine(machine)), "GPU")
    assert (finding.status, finding.text) == ("broken", "an NVIDIA GPU without its driver")
    assert "ubuntu-drivers install" in finding.remedy[0]


def test_a_machine_without_an_engine_is_told_what_to_install() -> None:
    absent = _trial({"error": "ModuleNotFoundError: No module named 'onnxruntime'"})
    machine = RecordedMachine("no-gpu")
    del machine.facts["distributions"]["onnxruntime"]
    machine.facts["trials"][CPU] = absent
    found = diagnose(examine(machine))
    finding = _finding(found, "ONNX Runtime")
    assert (finding.status, finding.text) == ("missing", "not installed")
    assert finding.remedy == ('pip install "edgegpt-toolkit[cpu]"',)
    assert not found.works("auto")


def test_a_runtime_that_is_too_old_for_every_lowering_does_not_work() -> None:
    old = _trial(
        {"version": "1.13.1", "available": ["CPUExecutionProvider"]},
        {"loaded": ["CPUExecutionProvider"]},
        {"computed": True},
    )
    found = _diagnose("no-gpu", trials={CPU: old})
    finding = _finding(found, "ONNX Runtime")
    assert (finding.status, finding.remedy) == (
        "broken",
        ('pip install --upgrade "onnxruntime>=1.25"',),
    )
    assert not found.works("cpu")


def test_a_gpu_without_its_runtime_gets_the_commands_that_replace_the_cpu_one() -> None:
    machine = RecordedMachine("both-wheels")
    del machine.facts["distributions"]["onnxruntime-gpu"]
    finding = _finding(diagnose(examine(machine)), "CUDA provider")
    assert finding.remedy == (
        "pip uninstall -y onnxruntime",
        'pip install "edgegpt-toolkit[cuda]"',
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_session(["CPUExecutionProvider"], True), "does not load"),
        (_session(["CUDAExecutionProvider", "CPUExecutionProvider"], False), "wrong numbers"),
        (_session(["CUDAExecutionProvider", "CPUExecutionProvider"]), "does not load"),
        (_trial({"version": "1.31.1"}, code=None), "did not end in time"),
        (_trial({"version": "1.31.1"}, code=-11), "crashed with exit code -11"),
        (_trial(err="libcurand.so.10: cannot open shared object file: No"), "libcurand.so.10"),
    ],
)
def test_a_provider_works_only_if_its_session_has_it_and_computes(
    answer: dict[str, Any], words: str
) -> None:
    found = _diagnose(THOR, trials={CUDA: answer})
    finding = _finding(found, "CUDA provider")
    assert finding.status == "broken"
    assert words in finding.text
    assert finding.remedy
    assert not found.works("cuda")
    assert found.choice.backend == "cpu"


def test_what_a_real_runtime_says_names_the_missing_library() -> None:
    said = RecordedMachine("no-gpu-but-its-packages").facts["trials"][CUDA]
    finding = _finding(_diagnose(THOR, trials={CUDA: said}), "CUDA provider")
    assert "libcublasLt.so.13 is missing (built for CUDA 13)" in finding.text


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            ["EP Error cuda_call.cc CUDA failure 35: the driver is old ; GPU=-1"],
            "the driver is old",
        ),
        (["[E] provider.cc [ONNXRuntimeError] : 1 : FAIL : no kernel image"], "no kernel image"),
        ([], "no reason given"),
    ],
)
def test_why_a_provider_fails_is_told_and_not_what_follows(said: list[str], reason: str) -> None:
    answer = _trial({"error": "Fail: fallback to CPU EP has been explicitly disabled by the user"})
    answer["out"] += ["*************** EP Error ***************", *said, "Falling back to ['CPU']"]
    finding = _finding(_diagnose(THOR, trials={CUDA: answer}), "CUDA provider")
    assert finding.text.startswith("does not load: ")
    assert finding.text.endswith(reason)


def test_a_missing_library_of_cuda_12_is_brought_by_the_package_for_cuda_12() -> None:
    said = "FAIL : Failed to load library: libcublasLt.so.12: cannot open shared object file: No"
    answer = _trial({"version": "1.26.0", "cuda": "12.8"}, err=said)
    first = _trial({"version": "1.26.0", "cuda": "12.8", "available": [CUDA.split()[1]]})
    first["out"] += _session(["CPUExecutionProvider"], True)["out"][1:]
    found = _diagnose("cuda-12-desktop", trials={CPU: first, CUDA: answer})
    finding = _finding(found, "CUDA provider")
    assert "libcublasLt.so.12 is missing (built for CUDA 12)" in finding.text
    assert finding.remedy == ("pip install nvidia-cublas-cu12",)


def test_a_gpu_that_only_nvidia_smi_sees_cannot_be_used() -> None:
    lost = _trial({"error": "OSError: libcuda.so.1: cannot open shared object file: No such file"})
    found = _diagnose("both-wheels", trials={"gpus": lost})
    finding = _finding(found, "GPU")
    assert finding.status == "broken"
    assert "NVIDIA GeForce RTX 3060: CUDA does not start: OSError: libcuda.so.1" in finding.text
    assert any("--gpus all" in line for line in finding.remedy)
    assert not any(found.works(backend) for backend in BACKENDS)


def test_a_driver_that_hangs_is_told_and_nothing_waits_for_it() -> None:
    hangs = {"nvidia-smi": {"code": None, "out": [], "err": []}}
    finding = _finding(_diagnose("both-wheels", programs=hangs), "GPU")
    assert finding.status == "broken"
    assert "the driver hangs" in finding.text


def test_nothing_else_is_asked_of_a_driver_that_hangs() -> None:
    machine = RecordedMachine("jetson-thor-jetpack-7.2")
    machine.facts["programs"]["nvidia-smi"] = {"code": None, "out": [], "err": []}
    trials = machine.facts["trials"]
    machine.facts["trials"] = {name: trials[name] for name in (CPU, "bindings")}
    assert diagnose(examine(machine)).works("cpu")


def test_the_driver_tells_its_cuda_where_cuda_does_not() -> None:
    lost = _trial({"error": "OSError: no libcuda"})
    assert _report("cuda-12-desktop", trials={"gpus": lost}).driver_cuda == (12,)
    assert _report(WINDOWS, trials={"gpus": lost}).driver_cuda == (13,)


@pytest.mark.parametrize(
    ("version", "status"), [("10.2.0", "broken"), ("10.3.0", "ok"), ("12.0.0", "broken")]
)
def test_a_tensorrt_that_nobody_wrote_for_is_refused(version: str, status: str) -> None:
    answer = {"tensorrt tensorrt": _trial({"version": version}, {"builder": True})}
    assert _finding(_diagnose(THOR, trials=answer), "TensorRT").status == status


def test_tensorrt_that_cannot_be_imported_says_why() -> None:
    answer = {"tensorrt tensorrt": _trial({"error": "ImportError: libnvinfer.so.10: no"})}
    finding = _finding(_diagnose(THOR, trials=answer), "TensorRT")
    assert (finding.status, finding.text) == (
        "broken",
        "cannot be imported: ImportError: libnvinfer.so.10: no",
    )


def test_a_container_has_no_more_memory_than_its_limit() -> None:
    group = {"/proc/self/cgroup": ["0::/"]}
    limit = {
        "/sys/fs/cgroup/memory.max": [str(3_000_000_000)],
        "/sys/fs/cgroup/memory.current": [str(1_000_000_000)],
    }
    report = _report("no-gpu", files=group | limit)
    assert (report.memory, report.free_memory) == (3_000_000_000, 2_000_000_000)
    unlimited = group | {"/sys/fs/cgroup/memory.max": ["max"]}
    assert _report("no-gpu", files=unlimited).free_memory == 11_500_000 * 1024
