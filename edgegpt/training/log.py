"""The log of a training run: metrics.jsonl for programs, a progress bar and samples for people."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from edgegpt.runtime.files import write_file
from edgegpt.runtime.generation.sampling import Sampling, choose

from ..errors import CheckpointError
from ..model import GPT
from ..user_files import parsed

__all__ = ["TrainingLog", "training_log", "write_sample"]


class TrainingLog:
    """Receives events from the trainer. If `path` is None (all processes but the first), silent."""

    def __init__(self, path: Path | None, progress: Progress | None, console: Console) -> None:
        self.path, self.progress, self.console = path, progress, console
        self.task: TaskID | None = None
        self.loss = float("nan")
        self.tokens = 0  # since the last line of metrics
        self.mark = time.monotonic()

    def begin(self, step: int, place: float, max_steps: int) -> None:
        """Start the clock; drop metrics of steps after `step`, which the run will repeat.

        `place` is how far the run is, in steps; with a limit of time it may be more than `step`.
        """
        self.mark = time.monotonic()
        if self.path is not None:
            _truncate(self.path, step)
        if self.progress is not None:
            self.task = self.progress.add_task(
                "train", total=max_steps, completed=round(place), step=step, rate=""
            )

    def trained(
        self, step: int, place: float, tokens: int, rate: float, loss: float | None
    ) -> None:
        """Count a step; `loss` is not None when a line of metrics is due.

        `place` is how far the run is then; see `begin`.
        """
        self.tokens += tokens
        if loss is not None:
            elapsed = time.monotonic() - self.mark
            speed = self.tokens / max(elapsed, 1e-9)
            self.loss, self.tokens, self.mark = loss, 0, time.monotonic()
            self._write(step=step, loss=loss, learning_rate=rate, tokens_per_second=speed)
            if self.progress is not None and self.task is not None:
                text = f"loss {loss:.4f}  {speed:,.0f} tokens/s"
                self.progress.update(self.task, rate=text)
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=place, step=step)

    def evaluated(
        self, step: int, loss: float, improved: bool, scores: Mapping[str, float]
    ) -> None:
        """Record and print the validation loss, and further scores by name."""
        self._write(step=step, validation_loss=loss, best=improved, **scores)
        told = "".join(f", {name.replace('_', ' ')} {value:.2f}" for name, value in scores.items())
        self.note(f"step {step}: validation loss {loss:.4f}{told}" + (" (best, saved)" * improved))

    def sample(self, step: int, text: str) -> None:
        """Record and print a sample of the model's current output, if there is one."""
        if text:
            self._write(step=step, sample=text)
            self.note(text, style="dim")

    def resume_clock(self) -> None:
        """Restart the clock, so that the speed excludes evaluating and saving."""
        self.mark, self.tokens = time.monotonic(), 0

    def note(self, message: str, style: str | None = None) -> None:
        """Print one message on stderr."""
        if self.path is not None:
            self.console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)

    def _write(self, **values: Any) -> None:
        if self.path is not None:
            try:
                with self.path.open("ab") as file:
                    file.write(f"{json.dumps(values)}\n".encode())
            except OSError as error:
                raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error


@contextmanager
def training_log(path: Path | None) -> Iterator[TrainingLog]:
    """Yield a log that writes to `path` and, on a terminal, draws a progress bar on stderr."""
    console = Console(file=sys.stderr)
    if path is None or not console.is_terminal:
        yield TrainingLog(path, None, console)
        return
    columns = (
        TextColumn("step {task.fields[step]}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield TrainingLog(path, progress, console)


@torch.no_grad()
def write_sample(model: GPT, tokenizer: Tokenizer, count: int, seed: int) -> str:
    """Return a text of `count` tokens, sampled at temperature 0.8 after a newline (or id 0)."""
    device = next(model.parameters()).device
    newline = tokenizer.token_to_id("\n")
    ids = [0 if newline is None else newline]
    was_training = model.training
    model.eval()
    for step in range(count):
        window = torch.tensor([ids[-model.config.block_size :]], device=device)  # (1, T)
        logits = model(window)[0, -1].float().cpu().numpy().astype(np.float32)  # (V,)
        choice = choose(logits, Sampling(temperature=0.8), ids, seed=seed, series=0, step=step)
        ids.append(choice.token)
    model.train(was_training)
    text: str = tokenizer.decode(ids[1:], skip_special_tokens=False)
    return text


def _truncate(path: Path, step: int) -> None:
    """Keep an earlier run's lines up to `step`; drop half a line that a killed run left."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if _step_of(line, path) <= step]
        write_file(path, "".join(kept).encode())


def _step_of(line: str, path: Path) -> int:
    step = parsed(line, f"a line of {path}").get("step")
    if type(step) is not int:
        raise CheckpointError(f"a line of {path} has no step")
    return step
