"""The power mode and the clocks, from made-up trees of /sys and made-up programs nvpmodel."""

import dataclasses
from pathlib import Path

import pytest

from edgegpt.runtime.bench.power import Clock, Power
from edgegpt.runtime.doctor import report
from edgegpt.runtime.doctor.probe import LocalProbe

POLICY = "/sys/devices/system/cpu/cpufreq/policy"
JETSON = {"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic"}
BATTERY = {
    "/sys/class/power_supply/AC/type": "Mains",
    "/sys/class/power_supply/AC/online": "0",
    "/sys/class/power_supply/BAT0/type": "Battery",
    "/sys/class/power_supply/BAT0/status": "Discharging",
}
MOUSE = {
    "/sys/class/power_supply/hidpp_battery_0/type": "Battery",
    "/sys/class/power_supply/hidpp_battery_0/scope": "Device",
    "/sys/class/power_supply/hidpp_battery_0/status": "Discharging",
}


def policy(number: int, governor: str, now: object, most: object) -> dict[str, str]:
    """The files of processors that share a clock, in kHz."""
    return {
        f"{POLICY}{number}/scaling_governor": governor,
        f"{POLICY}{number}/scaling_cur_freq": f"{now}",
        f"{POLICY}{number}/scaling_max_freq": f"{most}",
    }


class Tree(LocalProbe):
    """Answers from a tree of files; runs programs of a folder `bin` in it."""

    def __init__(self, root: Path, *files: dict[str, str], program: str | None = None) -> None:
        super().__init__()
        self.root = root
        for path, text in {name: text for part in files for name, text in part.items()}.items():
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text + "\n")
        (root / "bin").mkdir()
        if program is not None:
            (root / "bin" / "nvpmodel").write_text(f"#!/bin/sh\n{program}\n")
            (root / "bin" / "nvpmodel").chmod(0o755)

    def read(self, path: str) -> str | None:
        return super().read(f"{self.root}{path}")

    def glob(self, pattern: str) -> list[str]:
        return [path.removeprefix(str(self.root)) for path in super().glob(f"{self.root}{pattern}")]

    def run(self, command, seconds: float):
        return super().run([f"{self.root}/bin/{command[0]}", *command[1:]], seconds)


def test_a_laptop_tells_its_profile_its_battery_and_its_fastest_clock(tmp_path: Path) -> None:
    profile = {"/sys/firmware/acpi/platform_profile": "low-power"}
    slow = policy(0, "powersave", 800_000, 1_800_000)
    fast = policy(8, "powersave", 2_419_200, 3_200_000)
    power = Power.of(Tree(tmp_path, profile, BATTERY, MOUSE, slow, fast))
    assert power == Power("low-power", "powersave", "battery", {"CPU": Clock(2419.2, 3200.0)})
    assert power.words() == (
        "mode low-power, governor powersave, on battery, CPU 2,419 of 3,200 MHz"
    )


@pytest.mark.parametrize(
    ("supplies", "said"),
    [
        (BATTERY, "battery"),
        (BATTERY | {"/sys/class/power_supply/BAT0/status": "Charging"}, "mains"),
        (BATTERY | {"/sys/class/power_supply/BAT0/status": "Full"}, "mains"),
        (MOUSE, None),
        ({}, None),
    ],
)
def test_only_a_battery_of_the_machine_itself_counts(tmp_path: Path, supplies, said) -> None:
    assert Power.of(Tree(tmp_path, supplies)).supply == said


@pytest.mark.parametrize("gpu", ["17000000.gpu", "17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_a_jetson_tells_its_mode_and_both_clocks(tmp_path: Path, gpu: str) -> None:
    devices = {
        f"/sys/class/devfreq/{gpu}/cur_freq": "306000000",
        f"/sys/class/devfreq/{gpu}/max_freq": "918000000",
        "/sys/class/devfreq/15340000.vic/cur_freq": "3000000000",  # not a GPU
        "/sys/class/devfreq/15340000.vic/max_freq": "3000000000",
    }
    tree = Tree(
        tmp_path,
        JETSON,
        devices,
        policy(0, "schedutil", 1_510_400, 1_510_400),
        program="echo 'NVPM WARN: fan mode is not set!'; echo 'NV Power Mode: 15W'; echo 0",
    )
    assert Power.of(tree).words() == (
        "mode 15W, governor schedutil, CPU 1,510 of 1,510 MHz, GPU 306 of 918 MHz"
    )


@pytest.mark.parametrize(
    "program",
    [
        None,
        "exit 1",
        "echo nvpmodel: permission denied >&2; exit 255",
        "sleep 60",
        "sleep 60 & wait",
        "echo 'NV Power Mode:'",
        "printf 'NV Power Mode: \\033[31m<script>\\n'",
        "head -c 100000 /dev/urandom",
        "printf 'NV Power Mode: %5000s\\n' x | tr ' ' x",
    ],
)
def test_a_tool_that_is_absent_hangs_or_prints_nonsense_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(report, "PROGRAM_SECONDS", 0.5)
    tree = Tree(tmp_path, JETSON, policy(0, "schedutil", 1, 1), program=program)
    assert Power.of(tree).mode is None


def test_a_machine_without_a_jetsons_release_is_not_asked_for_its_mode(tmp_path: Path) -> None:
    tree = Tree(tmp_path, program=f"touch {tmp_path}/asked")
    assert Power.of(tree) == Power()
    assert not (tmp_path / "asked").exists()
    assert Power().words() == "this machine tells neither its mode nor its clocks"


@pytest.mark.parametrize("number", ["", "nan", "-1", "0", "<unknown>", "1e6", "9" * 15, "9" * 400])
def test_a_clock_that_is_no_number_is_left_out(tmp_path: Path, number: str) -> None:
    tree = Tree(
        tmp_path, policy(0, "x" * 1000, number, 2_000_000), policy(4, "a\nb", 1_000_000, number)
    )
    assert Power.of(tree) == Power(clocks={"CPU": Clock(1000.0, 2000.0)})


def test_governors_that_differ_are_all_told(tmp_path: Path) -> None:
    tree = Tree(tmp_path, policy(0, "schedutil", 1, 1), policy(4, "performance", 1, 1))
    assert Power.of(tree).governor == "performance+schedutil"


def test_settings_are_what_somebody_chose_and_no_clock_of_the_moment() -> None:
    power = Power("15W", "schedutil", "mains", {"CPU": Clock(700.0, 1500.0)})
    later = dataclasses.replace(power, clocks={"CPU": Clock(1400.0, 1500.0)})
    assert power.settings() == later.settings()
    assert set(power.settings()) == {
        "power mode",
        "governor",
        "power supply",
        "highest CPU clock",
    }
