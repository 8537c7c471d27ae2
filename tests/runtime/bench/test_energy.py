"""Joules: a Jetson's rails from its files, a board's counter, and the reasons for no meter."""

import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from edgegpt.runtime.bench import energy
from edgegpt.runtime.bench.energy import NvmlMeter, SampledMeter, find_meter, jetson_rails, total
from edgegpt.runtime.errors import EngineError

# The readings of two boards' sensors: label, millivolts, milliamperes.
ORIN_NX = {
    "1-0040": [("VDD_IN", 5000, 1400), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)]
}
AGX_ORIN = {
    "1-0040": [
        ("VDD_GPU_SOC", 19_000, 500),
        ("VDD_CPU_CV", 19_000, 100),
        ("VIN_SYS_5V0", 5000, 800),
    ],
    "1-0041": [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)],
}


def write_sensors(drivers: Path, chips: dict[str, list[tuple[str, int, int]]]) -> None:
    for chip, channels in chips.items():
        folder = drivers / "ina3221" / chip / "hwmon" / "hwmon3"
        folder.mkdir(parents=True)
        for number, (label, volts, amperes) in enumerate(channels, 1):
            (folder / f"in{number}_label").write_text(f"{label}\n")
            (folder / f"in{number}_input").write_text(f"{volts}\n")
            (folder / f"curr{number}_input").write_text(f"{amperes}\n")
        (folder / "in7_label").write_text("sum of shunt voltages\n")
        (folder / "in7_input").write_text("1\n")


@pytest.mark.parametrize(
    ("chips", "rails", "watts"),
    [
        (ORIN_NX, {"VDD_IN": 7.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.5}, 7.0),
        (
            AGX_ORIN,
            {"VDD_GPU_SOC": 9.5, "VDD_CPU_CV": 1.9, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 1.0},
            15.4,
        ),
        ({}, {}, 0.0),
    ],
)
def test_rails_are_volts_times_amperes(tmp_path: Path, chips, rails, watts) -> None:
    write_sensors(tmp_path, chips)
    found = {name: read() for name, read in jetson_rails(tmp_path).items()}
    assert found == pytest.approx(rails)
    assert total(found) == pytest.approx(watts)


def test_thor_tells_its_input_in_microwatts(tmp_path: Path) -> None:
    write_sensors(tmp_path, {"2-0040": [("VDD_GPU", 12_000, 1000)]})
    folder = tmp_path / "ina238" / "2-0044" / "hwmon" / "hwmon5"
    folder.mkdir(parents=True)
    (folder / "power1_input").write_text("45250000\n")
    found = {name: read() for name, read in jetson_rails(tmp_path).items()}
    assert found == pytest.approx({"VDD_GPU": 12.0, "VIN": 45.25})
    assert total(found) == pytest.approx(45.25)


def test_a_channel_that_cannot_be_read_is_no_rail(tmp_path: Path) -> None:
    write_sensors(tmp_path, ORIN_NX)
    next(tmp_path.glob("ina3221/*/hwmon/*/curr2_input")).unlink()
    assert set(jetson_rails(tmp_path)) == {"VDD_IN", "VDD_SOC"}


def test_a_sensor_that_goes_away_later_is_an_error(tmp_path: Path) -> None:
    write_sensors(tmp_path, ORIN_NX)
    meter = SampledMeter(jetson_rails(tmp_path), "", every_s=0.001)
    meter.begin()
    next(tmp_path.glob("ina3221/*/hwmon/*/curr1_input")).unlink()
    meter.thread.join(120)
    with pytest.raises(EngineError, match=r"curr1_input cannot be read any more"):
        meter.end()


class Clock:
    """Stands in for the module `time`; each reading is a second later than the one before."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now


def test_power_is_added_up_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "time", Clock())
    powers = iter([99.0, 10.0, 20.0, 40.0, 10.0, 30.0])
    meter = SampledMeter({"VDD_IN": lambda: next(powers)}, "", every_s=1e9)
    meter.begin()
    meter._sample()
    assert meter.end() == {"VDD_IN": 15.0 + 30.0}
    meter.begin()
    assert meter.end() == {"VDD_IN": 20.0}


def test_the_thread_samples_by_itself_and_only_meanwhile() -> None:
    sampled = threading.Semaphore(0)

    def watts() -> float:
        sampled.release()
        return 1.0

    meter = SampledMeter({"VDD_IN": watts}, "", every_s=0.001)
    assert not meter.thread.is_alive()
    meter.begin()
    assert all(sampled.acquire(timeout=120) for _ in range(5))
    assert meter.end()["VDD_IN"] > 0
    assert not meter.thread.is_alive()


class FakeNvml(ModuleType):
    """`pynvml` with one board."""

    class NVMLError(Exception):
        pass

    def __init__(self, has_counter: bool = True) -> None:
        super().__init__("pynvml")
        self.has_counter, self.millijoules, self.opened = has_counter, 5_000_000, 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> str:  # noqa: N802
        if bus_id != "0000:01:00.0":
            raise self.NVMLError("Not Found")
        return bus_id

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if not self.has_counter:
            raise self.NVMLError("Not Supported")
        self.millijoules += 1500
        return self.millijoules


@pytest.fixture
def no_rails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(energy, "I2C_DRIVERS", tmp_path)


def install(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


@pytest.mark.usefixtures("no_rails")
def test_a_board_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nvml := FakeNvml())
    meter, words = find_meter("0000:01:00.0")
    assert isinstance(meter, NvmlMeter)
    assert "NVML" in words
    with meter:
        meter.begin()
        assert total(meter.end()) == pytest.approx(1.5)
        nvml.has_counter = False
        with pytest.raises(EngineError, match="Not Supported"):
            meter.begin()
    assert nvml.opened == 0


@pytest.mark.usefixtures("no_rails")
@pytest.mark.parametrize(
    ("nvml", "bus_id", "said"),
    [
        (None, "0000:01:00.0", "pip install nvidia-ml-py"),
        (FakeNvml(has_counter=False), "0000:01:00.0", "Not Supported"),
        (FakeNvml(), "0000:99:00.0", "Not Found"),
        (FakeNvml(), None, "tells no rails"),
    ],
)
def test_without_a_meter_the_reason_is_told(monkeypatch, nvml, bus_id, said) -> None:
    install(monkeypatch, nvml)
    meter, words = find_meter(bus_id)
    assert meter is None
    assert words.startswith("not measured: ")
    assert said in words
    assert nvml is None or nvml.opened == 0


def test_a_sensor_that_tells_no_number_is_no_meter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_sensors(tmp_path, ORIN_NX)
    next(tmp_path.glob("ina3221/*/hwmon/*/curr1_input")).write_text("busy")
    monkeypatch.setattr(energy, "I2C_DRIVERS", tmp_path)
    meter, words = find_meter(None)
    assert meter is None
    assert "curr1_input cannot be read" in words


def test_rails_come_before_nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_sensors(tmp_path, ORIN_NX)
    monkeypatch.setattr(energy, "I2C_DRIVERS", tmp_path)
    for bus_id in ("0000:01:00.0", None):
        meter, words = find_meter(bus_id)
        assert meter is not None
        meter.close()
        assert words == "from the board's rails (VDD_CPU_GPU_CV, VDD_IN, VDD_SOC)"
