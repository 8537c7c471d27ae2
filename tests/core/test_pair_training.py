"""`edgegpt train --task seq2seq` from the command line: what it learns, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edgegpt.model import Seq2Seq, Seq2SeqConfig
from edgegpt.presets import load_preset
from edgegpt.runtime.text.pairs import PairFile
from edgegpt.training.config import TrainConfig, learning_rate_at
from edgegpt.training.distributed import Processes
from edgegpt.training.pair_task import PairTask, seq2seq_config
from edgegpt.training.translate import translate

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHIPPED = Path(__file__).parents[2] / "models" / "spoken-numbers"
PAIRS = [
    (f"{WORDS[a]} {WORDS[b]} {WORDS[c]}", f"{a}{b}{c}")
    for a in range(10)
    for b in range(10)
    for c in range(0, 10, 3)
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    return path


@pytest.fixture
def train(edgegpt: Callable, pairs: Path, tmp_path: Path) -> Callable:
    """Return a function that trains a tiny model for a few steps."""

    def run(options: str = "", data: Path = pairs, out: Path = tmp_path / "out"):
        settings = (
            "--n-layer 1 --n-head 2 --n-embd 16 --block-size 24 --batch-tokens 200 "
            "--warmup-steps 2 --eval-interval 2 --log-interval 1 --max-steps 4 --precision float32"
        )
        task = ("train", "--task", "seq2seq", "--data", data, "--out", out)
        return edgegpt(*task, *settings.split(), *options.split())

    return run


def model_of(folder: Path) -> Seq2Seq:
    settings = json.loads((folder / "config.json").read_text())["model"]
    model = Seq2Seq(Seq2SeqConfig.from_dict(settings)).eval()
    missing, unexpected = model.load_state_dict(
        load_file(folder / "model.safetensors"), strict=False
    )
    assert not unexpected
    assert set(missing) == set(model.tied_names())
    return model


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("options", ["", "--two-vocabularies --no-tie-embeddings"])
def test_a_run_learns_and_its_checkpoint_translates(
    train: Callable, tmp_path: Path, options: str
) -> None:
    outcome = train(
        f"{options} --max-steps 300 --eval-interval 300 --n-embd 48 --learning-rate 6e-3 "
        f"--batch-tokens 500"
    )
    assert outcome.code == 0, outcome.err
    (evaluation,) = [line for line in metrics_of(tmp_path / "out") if "validation_loss" in line]
    assert evaluation["validation_loss"] < 0.2
    assert evaluation["exact_match"] > 60
    assert evaluation["chrf"] > evaluation["exact_match"] * 0.8
    target = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    own = tmp_path / "out" / "source_tokenizer.json"
    assert own.exists() == bool(options)
    source = Tokenizer.from_file(str(own)) if options else target
    held_out = [
        line.split("\t") for line in (tmp_path / "out" / "held_out.tsv").read_text().splitlines()
    ]
    model = model_of(tmp_path / "out")
    found = translate(model, source, target, [line[0] for line in held_out])
    right = sum(text == line[1] for text, line in zip(found, held_out, strict=True))
    assert 100 * right / len(held_out) == pytest.approx(evaluation["exact_match"])


def test_a_paused_run_goes_on_as_if_it_had_not_paused(
    edgegpt: Callable, train: Callable, tmp_path: Path
) -> None:
    train(out=tmp_path / "whole")
    train("--stop-at 3")
    assert edgegpt("train", "--resume", "--out", tmp_path / "out").code == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json", "held_out.tsv"):
        whole, parts = (tmp_path / folder / name for folder in ("whole", "out"))
        assert whole.read_bytes() == parts.read_bytes()
    losses = [
        [(line["step"], line["loss"]) for line in metrics_of(tmp_path / folder) if "loss" in line]
        for folder in ("whole", "out")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_other_pairs_are_not_gone_on_with(
    edgegpt: Callable, train: Callable, pairs: Path, tmp_path: Path
) -> None:
    train("--stop-at 1")
    pairs.write_text("one\t1\ntwo\t2\n")
    outcome = edgegpt("train", "--resume", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "was trained on another text" in outcome.err


def test_pairs_of_another_file_are_for_validation(train: Callable, tmp_path: Path) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("nine nine nine\t999\neight\t8\n")
    outcome = train(f"--validation {other} --stop-at 1")
    assert f"pairs.tsv: {len(PAIRS)} training and 2 validation pairs" in outcome.err
    assert (tmp_path / "out" / "held_out.tsv").read_text() == other.read_text()


def test_pairs_that_are_too_long_are_told(train: Callable, pairs: Path) -> None:
    with pairs.open("a") as file:
        file.write("one " * 40 + "\t1\n")
    assert "1 pair is too long for the model and left out" in train("--stop-at 1").err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--validation missing.tsv", "no file of pairs at missing.tsv"),
        ("--preset shakespeare-char", "shakespeare-char is of the task text, not seq2seq"),
        ("--position rope", "an encoder with rotary positions is not supported"),
        ("--batch-tokens 4", "--batch-tokens is 4; a step has 8 parts"),
        ("--vocab-size 5", "it needs at least"),
        ("--label-smoothing 1", "--label-smoothing is 1.0; it must be below 1"),
        ("--init-from OTHER", "--init-from is for models without an encoder"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(
    train: Callable, tmp_path: Path, options: str, told: str
) -> None:
    outcome = train(options.replace("OTHER", str(SHIPPED)), out=tmp_path / "new")
    assert outcome.code in (1, 2)
    assert told in outcome.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("line", ["one\n", "one\t\n", "one\t1\t1\n", "\n"])
def test_a_line_that_is_no_pair_is_refused_by_its_number(
    train: Callable, pairs: Path, tmp_path: Path, line: str
) -> None:
    pairs.write_text("one\t1\n" + line)
    outcome = train()
    assert outcome.code == 1
    assert f"{pairs} line 2" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--vocab-size 9", "the characters of a text are its vocabulary"),
        ("--two-vocabularies", "are of --task seq2seq"),
        ("--validation x.tsv", "are of --task seq2seq"),
    ],
)
def test_options_of_pairs_are_refused_for_a_text(
    edgegpt: Callable, corpus: Path, tmp_path: Path, options: str, told: str
) -> None:
    outcome = edgegpt(
        "train", "--data", corpus, "--out", tmp_path / "out", *options.split(), "--max-steps", 1
    )
    assert outcome.code == 2
    assert told in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_run_on_pairs_needs_pairs(edgegpt: Callable, tmp_path: Path) -> None:
    outcome = edgegpt("train", "--task", "seq2seq", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "needs --data PAIRS.tsv" in outcome.err


def test_the_base_preset_has_the_size_of_the_paper_s_base_model() -> None:
    config = seq2seq_config(load_preset("transformer-base").model, {}, None)
    with torch.device("meta"):
        found = Seq2Seq(config).parameter_count()
    width, inner, layers, vocabulary = 512, 2048, 6, 37_000
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    encoder = layers * (attention + feed_forward + 2 * 2 * width)
    decoder = layers * (2 * attention + feed_forward + 3 * 2 * width)
    assert found == vocabulary * width + encoder + decoder == 63_082_496
    assert config.decoder.embedding_scale == pytest.approx(512**0.5)


def test_the_rate_of_the_paper_rises_and_falls_with_the_root() -> None:
    config = TrainConfig(
        schedule="inverse_sqrt", learning_rate=(512 * 4000) ** -0.5, warmup_steps=4000
    )
    for step in (1, 100, 4000, 4001, 20_000):
        formula = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)  # section 5.3
        assert learning_rate_at(step, config) == pytest.approx(formula)


def test_smoothed_labels_count_in_training_only() -> None:
    config = TrainConfig(label_smoothing=0.1, batch_tokens=64)
    model = seq2seq_config(load_preset("transformer-tiny").model, {"dropout": 0.0}, None)
    group = Processes(0, 1, torch.device("cpu"))
    task = PairTask(model, config, PairFile("x", PAIRS, ""), PAIRS[4:], PAIRS[:4], group)
    (batch,) = task.batches(1)
    right = even = 0.0
    for part in batch:
        logs = task.model(part.source, part.source_len, part.target_in).log_softmax(-1)
        real, wanted = part.target_out >= 0, part.target_out.clamp(min=0)[..., None]
        right = right - logs.gather(2, wanted)[..., 0][real].sum()
        even = even - logs.mean(-1)[real].sum()
    count = sum(int((part.target_out >= 0).sum()) for part in batch)
    right, even = right / count, even / count
    task.model.eval()
    torch.testing.assert_close(task.loss(task.model, batch), right)
    task.model.train()
    torch.testing.assert_close(task.loss(task.model, batch), 0.9 * right + 0.1 * even)
    assert task.predicted(batch) == count
    assert len(batch) > 1
