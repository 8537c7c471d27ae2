"""On a machine without a GPU the first thing said is that there is none."""

import ctypes
from pathlib import Path

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import EngineError
from edgegpt.runtime.cuda.shown import needs_gpu, without_gpu

NONE = "needs an NVIDIA GPU, and this machine "


class Driver:
    """The library of a CUDA driver; None for one that is not there."""

    def __init__(self, status: int, count: int) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the vendor's names
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count) -> int:  # noqa: N802
        assert self.status == 0
        count._obj.value = self.count
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    real = ctypes.CDLL

    def set_driver(found: Driver | None) -> None:
        def library(name, *arguments, **options):
            if name not in ("libcuda.so.1", "nvcuda.dll"):
                return real(name, *arguments, **options)
            if found is None:
                raise OSError(f"{name}: cannot open shared object file")
            return found

        monkeypatch.setattr(ctypes, "CDLL", library)

    return set_driver


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "has none, or no driver for it"),
        (Driver(100, 0), "shows none"),
        (Driver(0, 0), "shows none"),
        (Driver(0, 1), None),
        (Driver(999, 0), None),  # an unknown error is for others to tell
    ],
)
def test_the_driver_is_asked(driver, found: Driver | None, said: str | None) -> None:
    driver(found)
    assert (without_gpu() is None) == (said is None)
    with pytest.raises(EngineError) as caught, needs_gpu("cuda"):
        raise EngineError("install this or that")
    assert str(caught.value).startswith(f"the backend cuda {NONE}{said}" if said else "install")


@pytest.mark.parametrize("backend", ["cuda", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("command", ["generate", "verify", "bench", "build"])
def test_a_backend_for_gpus_is_refused_for_that_reason(
    driver, small_bundle: Path, capsys, command: str, backend: str
) -> None:
    driver(None)
    if command == "build" and backend != "tensorrt":
        pytest.skip("cuda builds nothing, and tensorrt-rtx may build for another machine")
    given = ["--prompt", "The"] if command == "generate" else []
    with pytest.raises(SystemExit):
        main([command, str(small_bundle), "--backend", backend, *given])
    told = capsys.readouterr().err
    assert told.startswith(f"error: the backend {backend} {NONE}has none, or no driver"), told
    assert told.count("\n") == 1


def test_load_says_it_too_and_auto_needs_none(driver, small_bundle: Path) -> None:
    driver(None)
    with pytest.raises(EngineError, match=NONE):
        edgegpt.load(small_bundle, "cuda")
    with edgegpt.load(small_bundle) as lm:
        assert lm.generate("The", max_new_tokens=2).token_ids
