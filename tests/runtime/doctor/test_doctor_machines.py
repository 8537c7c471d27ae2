"""What `edgegpt doctor` says of every recorded machine."""

import pytest
from recorded_machine import MACHINES, RecordedMachine

from edgegpt.runtime.doctor import diagnosis, trial
from edgegpt.runtime.doctor.diagnosis import diagnose
from edgegpt.runtime.doctor.needs import BACKENDS
from edgegpt.runtime.doctor.report import examine

NAMES = sorted(path.stem for path in MACHINES.glob("*.json"))
ORIN, THOR, WINDOWS = "jetson-orin-jetpack-6.2", "jetson-thor-jetpack-7.2", "windows-rtx"
CPU, CUDA = "provider CPUExecutionProvider", "provider CUDAExecutionProvider"
GARBAGE = "\x00 R36 , , , , \n NV Power Mode: \n => \n 1.2.3 [N/A] MemTotal: x kB \x1b[0m é\n" * 3

STATUSES = {
    ORIN: {
        "machine": "ok",
        "JetPack": "ok",
        "GPU": "ok",
        "ONNX Runtime": "limited",
        "CUDA provider": "missing",
        "CUDA libraries": "ok",
        "TensorRT": "ok",
        "TensorRT for RTX": "missing",
        "cuda-bindings": "missing",
    },
    THOR: {
        "machine": "ok",
        "JetPack": "limited",
        "GPU": "ok",
        "ONNX Runtime": "ok",
        "CUDA provider": "ok",
        "CUDA libraries": "ok",
        "TensorRT": "ok",
        "TensorRT for RTX": "missing",
        "cuda-bindings": "ok",
    },
    WINDOWS: {
        "machine": "ok",
        "GPU": "ok",
        "ONNX Runtime": "ok",
        "CUDA provider": "broken",
        "CUDA libraries": "ok",
        "TensorRT": "missing",
        "TensorRT for RTX": "ok",
        "cuda-bindings": "ok",
    },
    "no-gpu": {"machine": "ok", "GPU": "missing", "ONNX Runtime": "ok"},
    "no-gpu-but-its-packages": {
        "machine": "ok",
        "GPU": "missing",
        "ONNX Runtime": "ok",
        "CUDA provider": "limited",
        "TensorRT for RTX": "ok",
    },
    "both-wheels": {
        "machine": "ok",
        "GPU": "ok",
        "ONNX Runtime": "broken",
        "CUDA libraries": "ok",
        "TensorRT": "missing",
        "TensorRT for RTX": "missing",
    },
    "cuda-12-desktop": {
        "machine": "ok",
        "GPU": "ok",
        "ONNX Runtime": "ok",
        "CUDA provider": "broken",
        "CUDA libraries": "ok",
        "TensorRT": "missing",
        "TensorRT for RTX": "missing",
    },
}
WORKING = {
    ORIN: ["cpu"],
    THOR: ["cpu", "cuda", "tensorrt"],
    WINDOWS: ["cpu", "tensorrt-rtx"],
    "no-gpu": ["cpu"],
    "no-gpu-but-its-packages": ["cpu"],
    "both-wheels": [],
    "cuda-12-desktop": ["cpu"],
}
CHOICES = {
    ORIN: ("cpu", None),
    THOR: ("cuda", "tensorrt"),
    WINDOWS: ("cpu", "tensorrt-rtx"),
    "no-gpu": ("cpu", None),
    "no-gpu-but-its-packages": ("cpu", None),
    "both-wheels": (None, None),
    "cuda-12-desktop": ("cpu", None),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_machine_is_judged(name: str) -> None:
    found = diagnose(examine(RecordedMachine(name)))
    assert {finding.subject: finding.status for finding in found.findings} == STATUSES[name]
    assert [backend for backend in BACKENDS if found.works(backend)] == WORKING[name]
    assert (found.choice.backend, found.choice.later) == CHOICES[name]
    assert found.works("auto") == bool(WORKING[name])


@pytest.mark.parametrize("name", NAMES)
def test_texts_that_make_no_sense_are_no_reason_to_fail(name: str) -> None:
    machine = RecordedMachine(name)
    facts = machine.facts
    facts["files"] = {path: [GARBAGE] for path in facts["files"]}
    facts["paths"] = [f"{path}{GARBAGE}" for path in facts["paths"]]
    nonsense = {"code": 0, "out": [GARBAGE, trial.MARK + "{", trial.MARK + "[1]"], "err": [GARBAGE]}
    facts["programs"] = dict.fromkeys(facts["programs"], nonsense)
    facts["trials"] = dict.fromkeys(facts["trials"], nonsense)
    found = diagnose(examine(machine))
    assert not any(found.works(backend) for backend in BACKENDS)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_is_one_line_and_every_obstacle_is_named(name: str) -> None:
    found = diagnose(examine(RecordedMachine(name)))
    for finding in found.findings:
        assert "\n" not in finding.text
        assert len(finding.text) < 250
        assert finding.status != "broken" or finding.remedy
        assert not finding.blocks or finding.status != "ok"
    assert set(diagnosis.FLAVOUR_BACKENDS.values()) < set(BACKENDS)
