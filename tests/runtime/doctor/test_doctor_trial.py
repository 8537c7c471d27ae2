# ruff: noqa: N802 - the functions have the names of the CUDA driver API
"""The trial that asks the CUDA driver, against a driver made up in Python."""

import ctypes
from typing import Any

import pytest

from edgegpt.runtime.doctor import trial

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class FakeDriver:
    """The functions of libcuda that the trial calls, with their argument order (cuda.h).

    `calls` holds every call; `fails` maps a function to the error that it returns.
    """

    def __init__(self, fails: dict[str, int]) -> None:
        self.fails, self.calls = fails, []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name not in self.fails:
                getattr(FakeDriver, f"_{name}")(*arguments)
            return self.fails.get(name, 0)

        if not name.startswith("cu"):
            raise AttributeError(name)
        return call

    @staticmethod
    def _cuDriverGetVersion(version: Any) -> None:
        version._obj.value = 12040

    @staticmethod
    def _cuInit(flags: int) -> None:
        assert flags == 0

    @staticmethod
    def _cuDeviceGetCount(count: Any) -> None:
        count._obj.value = 1

    @staticmethod
    def _cuDeviceGet(device: Any, ordinal: int) -> None:
        device._obj.value = 7 + ordinal

    @staticmethod
    def _cuDeviceGetName(name: Any, length: int, device: ctypes.c_int) -> None:
        assert device.value == 7
        assert length == len(name)
        name.value = b"Made-up GPU"

    @staticmethod
    def _cuDevicePrimaryCtxRetain(context: Any, device: ctypes.c_int) -> None:
        assert device.value == 7
        context._obj.value = 0x1234_5678_9ABC

    @staticmethod
    def _cuCtxSetCurrent(context: ctypes.c_void_p) -> None:
        assert context.value == 0x1234_5678_9ABC

    @staticmethod
    def _cuMemGetInfo_v2(free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = 10_000_000_000, 12_000_000_000

    @staticmethod
    def _cuDevicePrimaryCtxRelease_v2(device: ctypes.c_int) -> None:
        assert device.value == 7

    @staticmethod
    def _cuDeviceGetAttribute(value: Any, attribute: int, device: ctypes.c_int) -> None:
        assert device.value == 7
        value._obj.value = {18: 0, 75: 8, 76: 9}[attribute]

    @staticmethod
    def _cuGetErrorString(code: int, words: Any) -> None:
        assert code == NO_DEVICE
        words._obj.value = b"no CUDA-capable device is detected"


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs the trial on a driver with these failures."""

    def run(**fails: int) -> tuple[dict[str, Any], list[str]]:
        driver = FakeDriver(fails)
        monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
        trial.main("gpus")
        return trial.told(capsys.readouterr().out), driver.calls

    return run


def test_the_driver_tells_its_version_and_each_gpu(ask) -> None:
    facts, calls = ask()
    assert facts == {
        "cuda": 12040,
        "gpus": [
            {
                "name": "Made-up GPU",
                "compute_capability": [8, 9],
                "integrated": False,
                "total": 12_000_000_000,
                "free": 10_000_000_000,
            }
        ],
    }
    assert calls.index("cuInit") < calls.index("cuDeviceGetCount") < calls.index("cuDeviceGet")
    retain, release = "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"
    assert calls.index(retain) < calls.index("cuMemGetInfo_v2") < calls.index(release)


def test_a_driver_that_does_not_start_tells_its_version_and_why(ask) -> None:
    facts, _ = ask(cuInit=NO_DEVICE)
    assert facts == {
        "cuda": 12040,
        "error": "OSError: CUDA error 100: no CUDA-capable device is detected",
    }


def test_a_context_is_given_back_when_a_question_fails(ask) -> None:
    facts, calls = ask(cuMemGetInfo_v2=NO_DEVICE)
    assert "CUDA error 100" in facts["error"]
    assert "cuDevicePrimaryCtxRelease_v2" in calls


def test_a_crash_takes_nothing_back_that_was_told() -> None:
    output = f'noise\n{trial.MARK}{{"version": "1.31.1"}}\n{trial.MARK}{{"load'
    assert trial.told(output) == {"version": "1.31.1"}
