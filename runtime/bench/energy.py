"""The energy of a token in joules, from NVML's counter of a GPU board or a Jetson's power rails."""

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import EngineError

__all__ = ["Meter", "NvmlMeter", "SampledMeter", "find_meter", "jetson_rails", "total"]

BOARD = "GPU board"
I2C_DRIVERS = Path("/sys/bus/i2c/drivers")
# Xavier and Orin have three channels per chip, in millivolts and milliamperes. Thor has its input,
# in microwatts. See "Platform Power and Performance" in NVIDIA's Jetson Linux Developer Guide, and
# hwmon/ina3221 and hwmon/ina238 in the kernel's documentation. in7_label is not a rail, but a sum
# of shunt voltages.
CHANNEL_LABELS = "ina3221/*/hwmon/hwmon*/in[123]_label"
INPUT_POWER = "ina238/*/hwmon/hwmon*/power1_input"
THOR_INPUT = "VIN"
# Rails that feed all others.
INPUTS = ("VDD_IN", "POM_5V_IN", THOR_INPUT)
# A board without a measured input (AGX) takes the sum of all rails but this one, because
# VIN_SYS_5V0 feeds it.
FED_BY_ANOTHER = ("VDDQ_VDD2_1V8AO",)
UNUSED = "NC"
SAMPLE_S = 0.02

Watts = Callable[[], float]


class Meter(ABC):
    """Counts joules by rail between `begin` and `end`; a context manager."""

    words: str  # says what it measures

    @abstractmethod
    def begin(self) -> None:
        """Begin counting."""

    @abstractmethod
    def end(self) -> dict[str, float]:
        """Return the joules that each rail has delivered since `begin`."""

    def close(self) -> None:  # noqa: B027 - most meters have nothing to free
        """Free the resources of the meter."""

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NvmlMeter(Meter):
    """The energy counter that NVIDIA boards have had since Volta."""

    words = "by NVML's energy counter, for the whole board"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle
        self.first = self._joules()  # not every board has the counter

    def begin(self) -> None:
        """Read the counter."""
        self.first = self._joules()

    def end(self) -> dict[str, float]:
        """Return the joules that the board has taken since `begin`."""
        return {BOARD: self._joules() - self.first}

    def close(self) -> None:
        """Shut NVML down."""
        self.nvml.nvmlShutdown()

    def _joules(self) -> float:
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except self.nvml.NVMLError as error:
            raise EngineError(f"NVML does not tell the GPU's energy: {error}") from error


class SampledMeter(Meter):
    """Integrates the power of rails, sampled in a thread of its own, with the trapezoidal rule."""

    def __init__(self, rails: dict[str, Watts], words: str, every_s: float = SAMPLE_S) -> None:
        self.rails, self.words, self.every_s = rails, words, every_s
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.failure: EngineError | None = None
        self.ended, self.thread = threading.Event(), threading.Thread()
        self._sample()  # raises now if a sensor does not answer

    def begin(self) -> None:
        """Begin sampling."""
        self.samples, self.failure = [], None
        self._sample()
        self.ended.clear()
        self.thread = threading.Thread(target=self._run, name="edgegpt-power", daemon=True)
        self.thread.start()

    def end(self) -> dict[str, float]:
        """End sampling; return the joules of each rail."""
        self.ended.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        self._sample()
        sums = dict.fromkeys(self.rails, 0.0)
        for (before, first), (now, second) in pairwise(self.samples):
            for name in sums:
                sums[name] += (now - before) * (first[name] + second[name]) / 2
        return sums

    def _sample(self) -> None:
        watts = {name: read() for name, read in self.rails.items()}
        self.samples.append((time.perf_counter(), watts))

    def _run(self) -> None:
        try:
            while not self.ended.wait(self.every_s):
                self._sample()
        except EngineError as error:
            self.failure = error  # `end` raises it


def find_meter(bus_id: str | None) -> tuple[Meter | None, str]:
    """Return a meter for this machine and what it measures, or None and why there is none.

    Args:
        bus_id: PCI bus id of the GPU that computes; None if the processor computes.
    """
    rails = jetson_rails(I2C_DRIVERS)
    if not rails and bus_id is None:
        return None, "not measured: this machine tells no rails"
    try:
        if rails:
            named = ", ".join(sorted(rails))
            meter: Meter = SampledMeter(rails, f"from the board's rails ({named})")
        else:
            meter = _open_nvml(bus_id or "")
    except Exception as error:  # ImportError, or any error of NVML
        remedy = ": pip install nvidia-ml-py" if isinstance(error, ImportError) else ""
        return None, f"not measured: {error}{remedy}"
    return meter, meter.words


def total(joules: dict[str, float]) -> float:
    """Return the joules of all rails together, without counting a rail that another one feeds."""
    for name in INPUTS:
        if name in joules:
            return joules[name]
    return sum(value for name, value in joules.items() if name not in FED_BY_ANOTHER)


def jetson_rails(drivers: Path) -> dict[str, Watts]:
    """Return a reader, in watts, for each power rail that the board's sensors measure."""
    rails = {}
    for label in sorted(drivers.glob(CHANNEL_LABELS)):
        name, channel = _text(label), re.sub(r"\D", "", label.name)
        volts, amperes = (label.with_name(f"{kind}{channel}_input") for kind in ("in", "curr"))
        if name and name != UNUSED and _text(volts) and _text(amperes):
            rails[name] = _product(volts, amperes)
    for power in sorted(drivers.glob(INPUT_POWER))[:1]:
        if _text(power):
            rails[THOR_INPUT] = _microwatts(power)
    return rails


def _open_nvml(bus_id: str) -> NvmlMeter:
    import pynvml  # noqa: PLC0415 - an optional dependency, and slow to import

    pynvml.nvmlInit()
    try:
        return NvmlMeter(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id))
    except BaseException:
        pynvml.nvmlShutdown()
        raise


def _product(volts: Path, amperes: Path) -> Watts:
    """Return a reader of millivolts times milliamperes."""
    return lambda: _number(volts) * _number(amperes) / 1e6


def _microwatts(power: Path) -> Watts:
    return lambda: _number(power) / 1e6


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"the power sensor {path} cannot be read any more: {error}") from error


def _text(path: Path) -> str:
    """Return the text of a file; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
