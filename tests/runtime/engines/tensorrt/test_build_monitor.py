"""A build's progress report: the name of the last phase, and the steps of the outermost one."""

from types import ModuleType, SimpleNamespace

import pytest

from edgegpt.runtime.engines.tensorrt.flavour import Flavour
from edgegpt.runtime.engines.tensorrt.monitor import BuildMonitor


@pytest.fixture
def monitor() -> BuildMonitor:
    module = ModuleType("tensorrt")
    module.IProgressMonitor = SimpleNamespace  # type: ignore[attr-defined]
    return BuildMonitor(Flavour("tensorrt", module), "building")


def reports(monitor: BuildMonitor) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    monitor.report(lambda *report: told.append(report))
    return told


def test_the_phase_that_began_last_is_named_and_steps_of_the_outermost_count(
    monitor: BuildMonitor,
) -> None:
    assert reports(monitor) == [("building", 0, 0)]
    vendors = monitor.vendors
    vendors.phase_start("Building engine", None, 6)
    assert reports(monitor) == [("building: Building engine", 0, 6)]
    vendors.phase_start("Timing tactics", "Building engine", 100)
    assert vendors.step_complete("Timing tactics", 41) is True
    vendors.phase_finish("Timing tactics")
    assert reports(monitor) == [("building: Timing tactics", 0, 6)]
    assert vendors.step_complete("Building engine", 4) is True
    assert reports(monitor) == [("building: Timing tactics", 5, 6)]


def test_what_has_not_moved_on_is_not_reported_again(monitor: BuildMonitor) -> None:
    monitor.vendors.phase_start("Building engine", None, 6)
    assert len(reports(monitor)) == 1
    assert reports(monitor) == []


def test_a_build_that_was_cancelled_is_left_at_its_next_step(monitor: BuildMonitor) -> None:
    monitor.cancelled.set()
    assert monitor.vendors.step_complete("Building engine", 0) is False
