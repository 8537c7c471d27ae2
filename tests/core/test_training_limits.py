"""What a run may take: gradients that add up, minutes, memory, and what is told before."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPTConfig
from edgegpt.presets import load_preset
from edgegpt.training import need, trainer
from edgegpt.training.need import Load, check_memory, needed_memory

CPU, FLOAT32 = torch.device("cpu"), torch.float32


@pytest.fixture
def train(edgegpt: Callable, corpus: Path, tiny_settings: list[str], tmp_path: Path) -> Callable:
    def run(name: str, options: str):
        out = tmp_path / name
        arguments = ("train", "--data", corpus, "--out", out, *tiny_settings)
        return edgegpt(*arguments, "--precision", "float32", *options.split())

    return run


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one(
    train: Callable, tmp_path: Path
) -> None:
    train("one", "--max-steps 5 --dropout 0 --batch-size 12")
    train("three", "--max-steps 5 --dropout 0 --batch-size 4 --gradient-accumulation-steps 3")
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    one, three = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "three"))
    for name, tensor in one.items():
        torch.testing.assert_close(three[name], tensor, rtol=0, atol=1e-4)
    train("less", "--max-steps 5 --dropout 0 --batch-size 4")
    assert losses(tmp_path / "less") != pytest.approx(losses(tmp_path / "one"), abs=1e-3)


def test_those_of_pairs_do_so_with_their_numbers_of_tokens(
    edgegpt: Callable, tmp_path: Path
) -> None:
    rows = [f"{'ab ' * (1 + n % 7)}\t{'ba ' * (1 + n % 5)}\n" for n in range(64)]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    common = "train --task seq2seq --max-steps 3 --warmup-steps 1 --log-interval 1 --n-layer 1"
    common += " --n-embd 16 --n-head 2 --block-size 32 --precision float32 --eval-interval 3"
    arguments = (*common.split(), "--data", tmp_path / "pairs.tsv")
    outs = [tmp_path / name for name in ("one", "two")]
    assert edgegpt(*arguments, "--out", outs[0], "--batch-tokens", 256).code == 0
    options = ("--batch-tokens", 256, "--gradient-accumulation-steps", 2)
    assert edgegpt(*arguments, "--out", outs[1], *options).code == 0
    one, two = map(losses, outs)
    assert all(0 < loss < 10 for loss in two)
    assert one[0] == pytest.approx(two[0], rel=0.1)  # the same model, twice the pairs
    assert one != two


class Clock:
    """A time that goes on by `step` seconds whenever it is asked for."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    perf_counter = monotonic


def test_a_run_ends_with_its_minutes_and_the_rate_comes_down_with_them(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "time", Clock(6.0))
    outcome = train("run", "--minutes 1 --max-steps 1000 --warmup-steps 100 --learning-rate 1e-2")
    assert outcome.code == 0, outcome.err
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").open()]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert len(rates) == 10  # of 6 seconds
    assert rates[0] == pytest.approx(1e-2 / 100)
    assert max(rates) == pytest.approx(1e-2, rel=0.01)
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert rates[-1] < 1.5e-3
    assert any("validation_loss" in line for line in lines)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_pause_does_not_count_as_time(
    edgegpt: Callable, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(6.0)
    monkeypatch.setattr(trainer, "time", clock)
    train("run", "--minutes 1 --max-steps 1000 --stop-at 4")
    clock.now += 1e6
    assert edgegpt("train", "--resume", "--out", tmp_path / "run").code == 0
    assert len(losses(tmp_path / "run")) == 10


def test_it_is_told_how_long_a_run_will_take(
    train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "time", Clock(7.0))
    told = train("long", "--max-steps 1000 --stop-at 1").err
    # A 64th of 4 sequences is one of them.
    assert "about 28 s a step: 8 hours for 1,000 steps; --minutes N ends sooner" in told
    told = train("short", "--max-steps 1000 --minutes 2 --stop-at 1").err
    assert "about 28 s a step: 4 steps in 2 minutes" in told


def test_measuring_learns_nothing(train: Callable, tmp_path: Path) -> None:
    train("told", "--max-steps 2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "seconds_of_a_step", lambda self: 1.0)
        train("silent", "--max-steps 2")
    name = "model.safetensors"
    assert (tmp_path / "told" / name).read_bytes() == (tmp_path / "silent" / name).read_bytes()


def test_a_step_that_does_not_fit_is_refused_before_anything_is_written(
    train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(need, "available_memory", lambda: 10_000)
    outcome = train("run", "--max-steps 2")
    assert outcome.code == 1
    assert "a training step needs about" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", [8e9, 30e9])
def test_what_the_refusal_recommends_fits(monkeypatch: pytest.MonkeyPatch, there: float) -> None:
    config, parameters = GPTConfig.from_dict(load_preset("gpt2-124m").model), 124_000_000
    monkeypatch.setattr(need, "available_memory", lambda: int(there))
    with pytest.raises(InvalidInputError) as refused:
        check_memory(parameters, [Load(config, 64 * 1024)], CPU, FLOAT32, "batch-size")
    found = re.search(r"--batch-size divided by (\d+)", str(refused.value))
    assert found is not None
    parts = int(found[1])
    assert needed_memory(parameters, [Load(config, 64 * 1024 // parts)], CPU, FLOAT32) <= there
    check_memory(parameters, [Load(config, 64 * 1024 // parts)], CPU, FLOAT32, "batch-size")


def test_weights_that_do_not_fit_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need, "available_memory", lambda: 10**9)
    with pytest.raises(InvalidInputError, match="the weights alone are too many"):
        check_memory(124_000_000, [], CPU, FLOAT32, "batch-size")


def test_where_the_system_does_not_tell_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need, "available_memory", lambda: None)
    check_memory(10**12, [], CPU, FLOAT32, "batch-size")
