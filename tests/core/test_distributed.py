"""Two processes, as torchrun starts them, train like one process with twice the batch."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import TIME_LIMIT, Forked
from safetensors.torch import load_file


def start_torchrun(environment: dict[str, str], *arguments: object) -> subprocess.Popen:
    """Start `edgegpt ARGUMENTS...` in two processes on this machine; they meet on a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc-per-node", "2", "-m", "edgegpt", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(folder: Path, environment: dict[str, str], *commands: list[object]) -> list[Forked]:
    """Start a process for each command, with the variables that torchrun would give it.

    No launcher ends the others when one has failed: they have to end by themselves.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    return [
        Forked(folder / f"process {rank}", environment | usual | {"RANK": str(rank)}, *command)
        for rank, command in enumerate(commands)
    ]


def end(launcher: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for the launcher and return its exit code, stdout and stderr; kill it if it hangs."""
    try:
        out, errors = launcher.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        launcher.terminate()  # this also ends its workers
        pytest.fail(f"the processes hang: {launcher.communicate()[1]}")
    return launcher.returncode, out, errors


def metrics_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check_alike(one: Path, two: Path, out: str, errors: str) -> None:
    """Check that two processes trained as one did, and that one of them wrote and printed."""
    expected, found = metrics_of(one), metrics_of(two)
    steps = [(line["step"], sorted(line)) for line in expected]
    assert [(line["step"], sorted(line)) for line in found] == steps  # only one process writes
    for key, count in (("loss", 8), ("validation_loss", 3)):
        ours = [line[key] for line in found if key in line]
        theirs = [line[key] for line in expected if key in line]
        assert len(ours) == count
        assert ours == pytest.approx(theirs, rel=0, abs=1e-5)
    assert len(out.splitlines()) == 1  # only one process prints
    assert json.loads(out)["finished"] is True
    assert "2 processes" in errors
    weights, reference = (load_file(run / "model.safetensors") for run in (two, one))
    for name, tensor in reference.items():
        assert weights[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-4), name


def test_two_processes_give_the_losses_of_one_with_the_double_batch(
    edgegpt: Callable,
    corpus: Path,
    tiny_settings: list[str],
    one_core_environment: dict,
    tmp_path: Path,
):
    options = "--max-steps 8 --eval-interval 3 --dropout 0 --precision float32 --eval-windows 11"
    common = ["train", "--data", corpus, *tiny_settings, *options.split(), "--json"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert edgegpt(*common, "--out", one, "--batch-size", 6).code == 0
    launcher = start_torchrun(one_core_environment, *common, "--out", two, "--batch-size", 3)
    code, out, errors = end(launcher)
    assert code == 0, errors

    check_alike(one, two, out, errors)


def test_two_nodes_without_a_common_disk_give_the_losses_of_one_process(
    edgegpt: Callable,
    corpus: Path,
    tiny_settings: list[str],
    one_core_environment: dict,
    tmp_path: Path,
):
    options = "--max-steps 8 --eval-interval 3 --dropout 0 --precision float32 --eval-windows 11"
    common = ["train", *tiny_settings, *options.split(), "--json"]
    one, two, disk = tmp_path / "one", tmp_path / "two", tmp_path / "another"
    assert edgegpt(*common, "--data", corpus, "--out", one, "--batch-size", 6).code == 0
    disk.mkdir()
    shutil.copy(corpus, disk / "text.txt")
    first, second = started(
        tmp_path,
        one_core_environment,
        [*common, "--data", corpus, "--out", two, "--batch-size", 3],
        [*common, "--data", disk / "text.txt", "--out", disk / "out", "--batch-size", 3],
    )
    ended = first.end()
    assert ended.code == 0, ended.err
    other = second.end()
    assert (other.code, other.out) == (0, "")
    check_alike(one, two, ended.out, ended.err)
    assert [path.name for path in disk.iterdir()] == ["text.txt"]


def test_nodes_with_different_texts_are_refused(
    corpus: Path, tiny_settings: list[str], one_core_environment: dict, tmp_path: Path
):
    old = tmp_path / "old.txt"
    old.write_text(corpus.read_text().replace("wind", "wing"))
    common = ["train", *tiny_settings, "--max-steps", 4]
    nodes = started(
        tmp_path,
        one_core_environment,
        [*common, "--data", corpus, "--out", tmp_path / "one"],
        [*common, "--data", old, "--out", tmp_path / "two"],
    )
    for node in nodes:
        ended = node.end()
        assert ended.code == 1
        assert "process 1 has another text or other settings than process 0" in ended.err
    assert not (tmp_path / "one").exists()


def test_two_processes_learn_pairs_as_one_that_takes_two_batches_a_step(
    edgegpt: Callable, one_core_environment: dict, tmp_path: Path
):
    """Their batches of a step are the same ones; pairs of different length have their weight."""
    numbers = "zero one two three four five six seven eight nine".split()  # noqa: SIM905
    texts = (str(number * 7919 % 10 ** (1 + number % 5)) for number in range(600))
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{' '.join(numbers[int(d)] for d in t)}\t{t}\n" for t in texts))
    options = (
        "--n-layer 1 --n-head 2 --n-embd 16 --block-size 24 --batch-tokens 400 --warmup-steps 2 "
        "--log-interval 1 --max-steps 4 --eval-interval 2 --dropout 0 --precision float32 --json "
        "--no-qkv-bias"  # a bias of keys has no gradient, of whose noise Adam makes steps
    )
    common = ["train", "--task", "seq2seq", "--data", pairs, *options.split()]
    one, two = tmp_path / "one", tmp_path / "two"
    assert edgegpt(*common, "--out", one, "--gradient-accumulation-steps", 2).code == 0
    both = [[*common, "--out", two]] * 2
    ended, other = (process.end() for process in started(tmp_path, one_core_environment, *both))
    assert (ended.code, other.code) == (0, 0), ended.err
    assert json.loads(ended.out)["finished"] is True
    for key, count in (("loss", 4), ("validation_loss", 2), ("exact_match", 2)):
        ours = [line[key] for line in metrics_of(two) if key in line]
        theirs = [line[key] for line in metrics_of(one) if key in line]
        assert len(ours) == count
        assert ours == pytest.approx(theirs, rel=0, abs=1e-5), key
    weights, reference = (load_file(run / "model.safetensors") for run in (two, one))
    for name, tensor in reference.items():
        assert weights[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-4), name
    for name in ("tokenizer.json", "held_out.tsv", "config.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()


def test_two_processes_that_are_refused_end_instead_of_waiting_for_each_other(
    corpus: Path, one_core_environment: dict, tmp_path: Path
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    out = tmp_path / "out"
    both = [["train", "--data", corpus, "--out", out]] * 2
    for process in started(tmp_path, one_core_environment, *both):
        ended = process.end()
        assert ended.code == 1
        assert "is not a checkpoint" in ended.err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_ctrl_c_in_one_process_stops_both_after_the_same_step(
    corpus: Path, tiny_settings: list[str], one_core_environment: dict, tmp_path: Path
):
    out, options = tmp_path / "out", ["--max-steps", 100000, "--eval-interval", 100000]
    arguments = ["train", "--data", corpus, "--out", out, *tiny_settings, *options]
    first, second = started(tmp_path, one_core_environment, arguments, arguments)
    first.wait_for_line(out / "metrics.jsonl")
    second.send_signal(signal.SIGINT)
    assert [first.end().code, second.end().code] == [0, 130]  # only one was interrupted
    state = torch.load(out / "train" / "state.pt", weights_only=True)
    assert metrics_of(out)[-1]["step"] == state["step"]
