"""A better engine takes over between two generations, and only after it was proved."""

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgegpt.runtime import upgrade as upgrade_module
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.errors import EdgeGPTWarning, EngineError, InvalidInputError
from edgegpt.runtime.upgrade import Upgrade, UpgradingEngine, proving_command, with_upgrade

SECONDS = 120.0


class Closing(NullEngine):
    """Records that it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def better() -> Closing:
    return Closing(lambda ids: np.ones(5, dtype=np.float32), 5)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def started() -> Iterator[list[Upgrade]]:
    """Upgrades that a test has started; all of them are cancelled after it."""
    upgrades: list[Upgrade] = []
    yield upgrades
    for upgrade in upgrades:
        upgrade.cancel()


def test_nothing_is_taken_before_the_process_has_ended_well(
    tmp_path: Path, better: Closing, started: list[Upgrade]
):
    flag = tmp_path / "proved"
    code = f"import time, pathlib\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.02)"
    upgrade = Upgrade(python(code), lambda: better)
    started.append(upgrade)
    assert not upgrade.wait(0.3)
    assert upgrade.take() is None
    flag.touch()
    assert upgrade.wait(SECONDS)
    assert upgrade.take() is better
    assert upgrade.take() is None  # the engine is given only once
    upgrade.cancel()
    assert not better.closed  # it belongs to whoever took it


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(1)", "its results were wrong"),
        ("raise SystemExit('error: no GPU here')", "error: no GPU here"),
    ],
)
def test_an_engine_that_was_not_proved_is_never_opened(
    code: str, told: str, started: list[Upgrade]
):
    opened = []
    upgrade = Upgrade(python(code), lambda: opened.append(1))
    started.append(upgrade)
    assert upgrade.wait(SECONDS)
    with pytest.warns(EdgeGPTWarning, match=told):
        assert upgrade.take() is None
    assert upgrade.take() is None  # told once
    assert not opened


@pytest.mark.parametrize("kind", [EngineError, TypeError])
def test_an_engine_that_does_not_open_leaves_the_old_one_at_work(
    started: list[Upgrade], kind: type[Exception]
):
    def opener() -> Closing:
        raise kind("the plan is for another GPU")

    upgrade = Upgrade(python(""), opener)
    started.append(upgrade)
    assert upgrade.wait(SECONDS)
    with pytest.warns(EdgeGPTWarning, match="another GPU"):
        assert upgrade.take() is None


def test_a_failure_is_logged_when_it_happens_and_not_only_at_the_next_generation(
    started: list[Upgrade], caplog: pytest.LogCaptureFixture
):
    upgrade = Upgrade(python("raise SystemExit('error: no GPU here')"), lambda: None)
    started.append(upgrade)
    assert upgrade.wait(SECONDS)
    assert caplog.messages == ["no faster engine: error: no GPU here"]


def test_cancelling_stops_the_process_and_is_quiet(better: Closing):
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upgrade = Upgrade(python("import time; time.sleep(600)"), lambda: better)
        upgrade.cancel()
    assert time.monotonic() - begin < SECONDS
    assert upgrade.take() is None


def test_cancelling_closes_an_engine_that_nobody_took(better: Closing):
    upgrade = Upgrade(python(""), lambda: better)
    assert upgrade.wait(SECONDS)
    upgrade.cancel()
    assert better.closed


def test_the_command_verifies_the_bundle_on_the_backend(small_bundle: Path):
    command = proving_command(Bundle.open(small_bundle), "tensorrt-rtx")
    assert command[1:4] == ["-m", "edgegpt", "verify"]
    assert Path(command[4]) == small_bundle.absolute()
    assert command[5:7] == ["--backend", "tensorrt-rtx"]


class Small(Closing):
    """An engine that was built for a single row."""

    def new_state(self, batch: int, context: int, sources=None):
        if batch > 1:
            raise InvalidInputError("built for 1 row")
        return super().new_state(batch, context)


def test_a_generation_keeps_its_engine_and_the_next_one_has_the_better(tmp_path: Path):
    flag = tmp_path / "proved"
    code = f"import time, pathlib\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.02)"
    first, second = (Small(lambda ids: np.ones(5, dtype=np.float32), 5) for _ in range(2))
    upgrade = Upgrade(python(code), lambda: second)
    engine = UpgradingEngine(first, upgrade)
    before = engine.new_state(1, 8)
    flag.touch()
    assert upgrade.wait(SECONDS)
    before.decode()
    assert (first.steps, second.steps) == (1, 0)
    engine.new_state(1, 8).decode()
    assert (first.steps, second.steps) == (1, 1)
    engine.close()
    assert first.closed
    assert second.closed


class Full(Closing):
    """An engine on a GPU that is full."""

    def new_state(self, batch: int, context: int, sources=None):
        raise EngineError("there is no room for the cache")


def test_where_the_better_engine_has_no_room_the_first_goes_on_and_says_so():
    first, second = (kind(lambda ids: np.ones(5, dtype=np.float32), 5) for kind in (Closing, Full))
    engine = UpgradingEngine(first, upgrade := Upgrade(python(""), lambda: second))
    assert upgrade.wait(SECONDS)
    with pytest.warns(EdgeGPTWarning, match="the first engine goes on: there is no room"):
        engine.new_state(1, 8).decode()
    assert first.steps == 1
    engine.close()


def test_what_is_too_large_for_the_better_engine_runs_on_the_first():
    first = Closing(lambda ids: np.ones(5, dtype=np.float32), 5)
    second = Small(lambda ids: np.ones(5, dtype=np.float32), 5)
    upgrade = Upgrade(python(""), lambda: second)
    engine = UpgradingEngine(first, upgrade)
    assert upgrade.wait(SECONDS)
    engine.new_state(2, 8).decode()
    assert (first.steps, second.steps) == (1, 0)
    engine.close()


def test_without_tensorrt_or_a_gpu_the_first_engine_stays(small_bundle: Path, better: Closing):
    assert with_upgrade(Bundle.open(small_bundle), better) is better


def test_an_application_of_its_own_is_not_started_again_to_build_an_engine(
    small_bundle: Path, better: Closing, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upgrade_module, "_could_run", lambda *_: True)
    monkeypatch.setattr(upgrade_module, "_ready", lambda *_: None)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.warns(EdgeGPTWarning, match=r"no Python that could build .* edgegpt verify"):
        assert with_upgrade(Bundle.open(small_bundle), better) is better


def test_the_engine_is_used_only_with_a_receipt(
    small_bundle: Path, better: Closing, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upgrade_module, "stored_for_this_gpu", lambda bundle, flavour: "stored")
    monkeypatch.setattr(upgrade_module, "TensorRTEngine", lambda prepared: better)
    with pytest.raises(EngineError, match="not verified"):
        upgrade_module._proved(Bundle.open(small_bundle), "tensorrt-rtx")
    assert better.closed
    monkeypatch.setattr(upgrade_module, "missing_proof", lambda *_: None)
    assert upgrade_module._proved(Bundle.open(small_bundle), "tensorrt-rtx") is better
