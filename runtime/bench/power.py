"""The power mode and the clocks of a machine, on which every measured speed depends.

Linux tells them in /sys, and a Jetson's program nvpmodel names its mode. A value that a system does
not tell, or tells in an unexpected form, is None or left out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..doctor.probe import Probe
from ..doctor.report import find_jetson

__all__ = ["Clock", "Power"]

# https://docs.kernel.org/admin-guide/pm/cpufreq.html: one folder for the processors that share a
# clock, in kHz. `scaling_max_freq` is what the governor may ask for; power modes lower it.
POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
# https://docs.kernel.org/userspace-api/sysfs-platform_profile.html
PROFILE = "/sys/firmware/acpi/platform_profile"
# https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-power
SUPPLIES = "/sys/class/power_supply/*"
# The clock of a GPU on the processor's chip, in Hz: "17000000.gpu", "gpu-gpc-0", and until JetPack
# 5 "17000000.ga10b". See sysfs-class-devfreq beside the file above.
DEVICES = "/sys/class/devfreq/*"
ON_CHIP_GPU = re.compile(r"gpu|\.g[avp][0-9]+b$")
NAME = re.compile(r"[\w.+-]{1,40}")
LARGEST_CLOCK = 100_000  # MHz; more than any real one


@dataclass(frozen=True)
class Clock:
    """MHz of a clock, and the most that the system lets it have."""

    now: float
    most: float


@dataclass(frozen=True)
class Power:
    """How much power a machine may use.

    Attributes:
        mode: nvpmodel's mode of a Jetson, else the platform's profile, such as "balanced".
        governor: of the processors' clocks, such as "schedutil"; several are joined by "+".
        supply: "battery" or "mains"; None for a machine without a battery.
        clocks: of the fastest processor ("CPU"), and of a GPU on the same chip ("GPU").
    """

    mode: str | None = None
    governor: str | None = None
    supply: str | None = None
    clocks: dict[str, Clock] = field(default_factory=dict)

    @classmethod
    def of(cls, machine: Probe) -> "Power":
        """Ask a machine, the clocks first: they fall as soon as it is idle."""
        policies, gpus = machine.glob(POLICIES), _gpus(machine)
        clocks = {
            "CPU": _clock(machine, policies, "scaling_", 1e3),
            "GPU": _clock(machine, gpus, "", 1e6),
        }
        governors = {_name(machine, f"{policy}/scaling_governor") for policy in policies}
        jetson = find_jetson(machine)
        return cls(
            mode=jetson.power_mode if jetson else _name(machine, PROFILE),
            governor="+".join(sorted(filter(None, governors))) or None,
            supply=_supply(machine),
            clocks={name: clock for name, clock in clocks.items() if clock},
        )

    def settings(self) -> dict[str, str]:
        """Return, by name, what somebody has set and what limits the clocks; not the clocks."""
        found = {"power mode": self.mode, "governor": self.governor, "power supply": self.supply}
        for name, clock in self.clocks.items():
            found[f"highest {name} clock"] = f"{clock.most:,.0f} MHz"
        return {name: value for name, value in found.items() if value}

    def words(self) -> str:
        """Return all of it in one line."""
        settings = {
            "mode": self.mode,
            "governor": self.governor,
            "on": self.supply,
            **{name: f"{c.now:,.0f} of {c.most:,.0f} MHz" for name, c in self.clocks.items()},
        }
        told = [f"{name} {value}" for name, value in settings.items() if value]
        return ", ".join(told) or "this machine tells neither its mode nor its clocks"


def _clock(machine: Probe, folders: Iterable[str], prefix: str, unit: float) -> Clock | None:
    """Return the fastest of several clocks, of which files of the system tell kHz or Hz."""
    now, most = (
        [
            number / unit
            for folder in folders
            if 0
            < (number := _number(machine, f"{folder}/{prefix}{name}_freq")) / unit
            < LARGEST_CLOCK
        ]
        for name in ("cur", "max")
    )
    return Clock(max(now), max(most)) if now and most else None


def _gpus(machine: Probe) -> list[str]:
    folders = machine.glob(DEVICES)
    return [one for one in folders if ON_CHIP_GPU.search(one.rpartition("/")[2])]


def _supply(machine: Probe) -> str | None:
    """Return whether a machine with a battery runs on it. Batteries of mice do not count."""
    folders = [
        folder for folder in machine.glob(SUPPLIES) if _name(machine, f"{folder}/scope") != "Device"
    ]
    batteries = [one for one in folders if _name(machine, f"{one}/type") == "Battery"]
    if not batteries:
        return None
    empties = any(_name(machine, f"{one}/status") == "Discharging" for one in batteries)
    return "battery" if empties else "mains"


def _name(machine: Probe, path: str) -> str | None:
    """Return the one word in a file of the system."""
    text = (machine.read(path) or "").strip()
    return text if NAME.fullmatch(text) else None


def _number(machine: Probe, path: str) -> int:
    """Return the whole number in a file of the system; 0 if there is none."""
    text = (machine.read(path) or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
