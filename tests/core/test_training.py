"""Training: a resumed run equals an uninterrupted one, the best weights are kept, metrics hold.

All tests call `edgegpt train`, on a text of 2,000 characters.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgegpt.checkpoint import load_checkpoint
from edgegpt.training.trainer import Trainer

Train = Callable[..., Path]


@pytest.fixture
def train(edgegpt: Callable, corpus: Path, tiny_settings: list[str], tmp_path: Path) -> Train:
    """Return a function that starts a run in a new folder and returns the folder."""

    def run(name: str, options: str = "") -> Path:
        out = tmp_path / name
        outcome = edgegpt("train", "--data", corpus, "--out", out, *tiny_settings, *options.split())
        assert outcome.code == 0, outcome.err
        return out

    return run


@pytest.fixture
def resume(edgegpt: Callable) -> Callable[..., None]:
    def run(out: Path, options: str = "") -> None:
        outcome = edgegpt("train", "--resume", "--out", out, *options.split())
        assert outcome.code == 0, outcome.err

    return run


def state_of(out: Path) -> dict:
    return torch.load(out / "train" / "state.pt", weights_only=True)


def metrics_of(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def steps_with(lines: list[dict], key: str) -> list[int]:
    return [line["step"] for line in lines if key in line]


def without_speed(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def assert_same(one: object, other: object, where: str = "state") -> None:
    """Compare nested dicts and lists bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    name = "model.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()
    assert_same(state_of(one), state_of(other))
    assert without_speed(metrics_of(one)) == without_speed(metrics_of(other))


@pytest.mark.parametrize(
    "options",
    [
        "--dropout 0.2 --eval-interval 1000",
        "--dropout 0.2 --eval-interval 4",
        "--dropout 0.2 --eval-interval 5 --save-dtype float16 --log-interval 3",
        "--dropout 0.2 --eval-interval 4 --tie-embeddings --position rope --n-kv-head 1",
        "--dropout 0.2 --eval-interval 4 --precision bfloat16",
    ],
)
def test_twenty_steps_are_ten_and_ten_bit_for_bit(train: Train, resume: Callable, options: str):
    whole = train("whole", f"--max-steps 20 {options}")
    halves = train("halves", f"--max-steps 20 --stop-at 10 {options}")
    assert state_of(halves)["step"] == 10
    resume(halves)
    assert state_of(whole)["optimizer"]["state"]  # the optimizer has a state to compare
    assert_same_run(whole, halves)


def test_a_run_in_many_pieces_is_the_same_run(train: Train, resume: Callable):
    whole = train("whole", "--max-steps 12 --dropout 0.2 --eval-interval 5")
    pieces = train("pieces", "--max-steps 12 --dropout 0.2 --eval-interval 5 --stop-at 1")
    for stop in (2, 5, 11, 12):
        resume(pieces, f"--stop-at {stop}")
    assert_same_run(whole, pieces)


def test_dropout_and_the_seed_matter_to_the_result(train: Train):
    runs = ["--dropout 0", "--dropout 0.2", "--dropout 0.2 --seed 5"]
    outs = [train(str(i), f"--max-steps 3 {options}") for i, options in enumerate(runs)]
    assert len({(out / "model.safetensors").read_bytes() for out in outs}) == 3


@pytest.mark.parametrize(
    ("told", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_a_processor_that_has_no_fast_bfloat16_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch, train: Train, told: dict[str, bool], precision: str
):
    expected = train("expected", f"--max-steps 2 --precision {precision}")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert_same_run(train("auto", "--max-steps 2 --precision auto"), expected)


def test_a_pytorch_that_cannot_tell_what_the_processor_has_trains_in_float32(
    monkeypatch: pytest.MonkeyPatch, train: Train
):
    expected = train("expected", "--max-steps 2 --precision float32")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert_same_run(train("auto", "--max-steps 2 --precision auto"), expected)


def test_a_run_killed_between_two_saves_takes_its_steps_again(train: Train, resume: Callable):
    whole = train("whole", "--max-steps 12 --dropout 0.2 --eval-interval 4")
    killed = train("killed", "--max-steps 12 --dropout 0.2 --eval-interval 4 --stop-at 4")
    with (killed / "metrics.jsonl").open("a") as file:
        for step in (5, 6, 7):
            file.write(json.dumps({"step": step, "loss": 99.0}) + "\n")
    resume(killed)
    assert_same_run(whole, killed)


def test_a_line_of_metrics_that_a_kill_cut_in_half_is_dropped(train: Train, resume: Callable):
    whole = train("whole", "--max-steps 8 --eval-interval 4")
    killed = train("killed", "--max-steps 8 --eval-interval 4 --stop-at 4")
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resume(killed)
    assert_same_run(whole, killed)


def test_metrics_have_each_step_once_with_all_that_is_promised(train: Train, resume: Callable):
    out = train("run", "--max-steps 12 --eval-interval 4 --stop-at 6")
    resume(out)
    lines = metrics_of(out)
    assert steps_with(lines, "loss") == list(range(1, 13))
    assert steps_with(lines, "validation_loss") == [4, 8, 12]
    assert steps_with(lines, "sample") == [4, 8, 12]
    for line in lines:
        if "loss" in line:
            assert line.keys() == {"step", "loss", "learning_rate", "tokens_per_second"}
            assert line["tokens_per_second"] > 0
            assert 0 < line["loss"] < 10
        if "validation_loss" in line:
            assert line.keys() == {"step", "validation_loss", "best"}
        if "sample" in line:
            assert len(line["sample"]) == 4


def test_the_learning_rate_in_the_metrics_is_the_schedules(train: Train):
    out = train("run", "--max-steps 6 --learning-rate 0.01 --min-learning-rate 0.002")
    rates = [line["learning_rate"] for line in metrics_of(out) if "loss" in line]
    cosine = [0.002 + 0.004 * (1 + math.cos(math.pi * i / 4)) for i in range(1, 5)]
    assert rates == pytest.approx([0.005, 0.01, *cosine], rel=1e-12)


def test_a_log_interval_leaves_lines_out_but_not_the_last(train: Train):
    out = train("run", "--max-steps 8 --log-interval 3")
    assert steps_with(metrics_of(out), "loss") == [3, 6, 8]


def test_no_sample_is_written_when_none_is_wanted(train: Train):
    out = train("run", "--max-steps 2 --sample-tokens 0")
    assert steps_with(metrics_of(out), "sample") == []


def test_the_weights_of_the_best_evaluation_are_kept(train: Train, monkeypatch: pytest.MonkeyPatch):
    losses, seen = iter([3.0, 1.0, 2.0]), []

    def scripted_loss(trainer: Trainer) -> float:
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(Trainer, "validation_loss", scripted_loss)
    out = train("run", "--max-steps 6 --eval-interval 2")
    assert_same(load_file(out / "model.safetensors"), seen[1])
    assert not torch.equal(seen[1]["head.weight"], seen[2]["head.weight"])
    assert [line["best"] for line in metrics_of(out) if "best" in line] == [True, True, False]
    assert_same(dict(state_of(out)["model"]), seen[2])


def test_the_best_loss_is_remembered_by_a_resumed_run(
    train: Train, resume: Callable, monkeypatch: pytest.MonkeyPatch
):
    losses = iter([1.0, 2.0])
    monkeypatch.setattr(Trainer, "validation_loss", lambda _: next(losses))
    out = train("run", "--max-steps 4 --eval-interval 2 --stop-at 2")
    best = (out / "model.safetensors").read_bytes()
    resume(out)
    assert (out / "model.safetensors").read_bytes() == best


def test_the_best_loss_told_is_that_of_the_weights_kept(train: Train, resume: Callable):
    options = "--eval-interval 2 --eval-windows 7 --precision float32"
    out = train("run", f"--max-steps 20 --learning-rate 0.01 {options}")
    resume(out, "--max-steps 24 --learning-rate 2 --min-learning-rate 2")  # spoils the weights
    told = [line["validation_loss"] for line in metrics_of(out) if "best" in line]
    assert min(told) < min(told[-2:])
    checkpoint, settings = load_checkpoint(out), json.loads((out / "config.json").read_text())
    assert settings["model"]["vocab_size"] == 16
    text = (checkpoint.held_out or "").encode()
    assert text  # 216 characters: 13 windows of 16; every second one is used
    ids = torch.tensor([sorted(set(text)).index(code) for code in text])
    starts = range(0, 13 * 16, 2 * 16)  # 7 windows in batches of 4 and 3
    rows = torch.stack([ids[start : start + 17] for start in starts])
    with torch.no_grad():
        logits = checkpoint.model(rows[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert loss.item() == pytest.approx(min(told), rel=1e-5)


def test_the_loss_falls_on_an_easy_text(train: Train):
    out = train("run", "--max-steps 120 --learning-rate 0.01 --eval-interval 60")
    losses = [line["loss"] for line in metrics_of(out) if "loss" in line]
    told = [line["validation_loss"] for line in metrics_of(out) if "best" in line]
    assert losses[0] == pytest.approx(math.log(16), abs=0.1)
    assert losses[-1] < 0.7 * losses[0]
    assert told[1] < told[0]


def test_weights_are_saved_in_the_dtype_asked_for(train: Train):
    for name, dtype in (("float16", torch.float16), ("float32", torch.float32)):
        out = train(name, f"--max-steps 2 --save-dtype {name}")
        stored = load_file(out / "model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {dtype}
        assert {value.dtype for value in state_of(out)["model"].values()} == {torch.float32}


def test_the_held_out_text_is_the_beginning_of_the_last_tenth(train: Train, corpus: Path):
    text = "one\r\ntwo\r\nthree, four\r\n" * 5000
    corpus.write_bytes(text.encode())
    out = train("run", "--max-steps 1")
    cut = int(0.9 * len(text))
    assert (out / "held_out.txt").read_bytes().decode() == text[cut : cut + 8192]


def test_the_tokenizer_knows_the_characters_of_the_corpus(train: Train, corpus: Path):
    from tokenizers import Tokenizer

    out = train("run", "--max-steps 1")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    expected = {c: i for i, c in enumerate(sorted(set(corpus.read_text())))}
    assert tokenizer.get_vocab() == expected
