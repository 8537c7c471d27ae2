"""The training loop: batches in, a checkpoint folder out.

Every random choice of a step is a function of (seed, step, process). The state to resume from is
therefore the weights, the optimizer, the step and the best step, without any generator state. The
output that the user sees during the run is in `log.py`.
"""

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from edgegpt.runtime.files import write_file

from ..checkpoint import save_weights
from ..errors import CheckpointError, InvalidInputError, NumericalError
from ..model import GPTConfig
from ..model.version_1 import from_version_1
from ..presets import TASKS
from ..user_files import is_file, read_json
from .compiled import compiled
from .config import TrainConfig, learning_rate_at
from .distributed import Processes
from .log import TrainingLog
from .need import check_memory
from .stop import StopRequest
from .task import Batch, Task

__all__ = ["Trainer", "read_settings"]

STATE_FILE = "state.pt"
SETTINGS_FILE = "settings.json"
SHARES = (1 / 64, 1 / 8, 1.0)  # of a batch, on which a step's time is measured
ENOUGH = 0.3  # seconds; parts that take less tell too little
SAVE_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Trainer:
    """One run: a task, its optimizer, and the current step."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        origin: Mapping[str, str | None],
        out: Path,
        group: Processes,
    ) -> None:
        """Build the optimizer; `origin`, what the user named, is kept for resuming.

        Raises:
            InvalidInputError: if a step does not fit the memory, or another process trains
                something else.
        """
        self.task, self.config, self.out, self.group = task, config, out, group
        self.origin = origin
        self.model = task.model
        self.autocast_dtype = _autocast_dtype(config.precision, group.device)
        check_memory(
            self.model.parameter_count(),
            task.loads,
            group.device,
            self.autocast_dtype or torch.float32,
            task.size_option.replace("_", "-"),
        )
        different = group.first_different([task.sha256, task.model_settings, config.to_dict()])
        if different is not None:
            raise InvalidInputError(
                f"process {different} has another text or other settings than process 0; give each "
                f"machine the same files and options"
            )
        self.optimizer = _optimizer(self.model, config)
        self.wrapped: torch.nn.Module = self.model
        if group.world > 1:
            self.wrapped = DistributedDataParallel(self.model)
        self.forward: torch.nn.Module = self.wrapped
        self.step = 0
        self.seconds = 0.0  # that the run took so far; counted if there is a limit
        self.best_loss = float("inf")
        self.step_of_best = 0
        self.interrupted = False

    def start(self) -> None:
        """Begin a new checkpoint folder; only the first process writes."""
        if self.group.is_first:
            (self.out / "train").mkdir(parents=True, exist_ok=True)
            self.task.write_files(self.out)
            self._save_settings()

    def resume(self) -> None:
        """Continue the run that `out` holds; a different model or corpus is refused."""
        settings = read_settings(self.out)
        if settings["corpus_sha256"] != self.task.sha256:
            raise InvalidInputError(
                f"a resumed run keeps its corpus; {self.out} was trained on another text "
                f"({settings['corpus']}, sha256 {settings['corpus_sha256'][:8]}...)"
            )
        if settings["model"] != self.task.model_settings:
            changed = [
                name if isinstance(value, dict) else f"{name}={value}"  # of both stacks: a dict
                for name, value in self.task.model_settings.items()
                if settings["model"].get(name) != value
            ]
            raise InvalidInputError(
                f"a resumed run keeps its model; {', '.join(changed)} would change it"
            )
        path = self.out / "train" / STATE_FILE
        try:
            state = torch.load(path, map_location=self.group.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best_loss = state["step"], state["best_loss"]
            self.step_of_best = state["step_of_best"]
            self.seconds = state.get("seconds", 0.0)  # older runs have none
        except FileNotFoundError:
            raise CheckpointError(f"nothing to resume: {path} is missing") from None
        except Exception as error:  # the type of torch.load's error depends on the damage
            raise CheckpointError(f"{path} is damaged: {error}") from error
        if self.group.is_first:
            self._save_settings()

    def compile(self, wanted: bool | None, note: Callable[[str], None]) -> None:
        """Train with fused kernels; see `compiled`. A sample is still written without them."""
        self.forward = compiled(self.wrapped, wanted, self.group.device, note)

    def run(self, log: TrainingLog, stop_at: int | None = None) -> None:
        """Train until `max_steps`, `minutes`, `stop_at` or Ctrl-C; that sets `interrupted`."""
        log.begin(self.step, self.place, self.config.max_steps)
        begin = time.monotonic() - self.seconds
        with StopRequest(log.note) as stop:
            while not (self.finished or self.step == stop_at or self._anyone(stop.requested)):
                self._train_step(log, begin)
                if self.step % self.config.eval_interval == 0 or self.finished:
                    self._evaluate_and_save(log)
        self.interrupted = stop.requested
        if not self.finished:
            self._save_state()

    @property
    def place(self) -> float:
        """How far the run is, in steps: by its steps, or by its time, if that is more.

        With a limit of time the learning rate therefore comes down as fast as the time runs out.
        """
        most, limit = self.config.max_steps, 60 * self.config.minutes
        by_time = most * self.seconds / limit if limit else 0.0
        return min(max(self.step, by_time), most)

    @property
    def finished(self) -> bool:
        """Whether all steps, or all minutes, are done."""
        return self.place >= self.config.max_steps

    def seconds_of_a_step(self) -> float:
        """Return about how long a step takes, from a part of one; nothing is learnt."""
        batches = self.task.batches(self.step + 1)
        whole = sum(map(self.task.predicted, batches))
        self.model.train()
        for share in SHARES:
            part = self.task.sliver(batches[0], share)
            for _ in range(2):  # the first one allocates memory
                begin = time.perf_counter()
                self._loss(self.model, part).backward()
                self.group.wait()
                taken = time.perf_counter() - begin
            if taken > ENOUGH:
                break
        self.optimizer.zero_grad(set_to_none=True)
        return taken * whole / self.task.predicted(part)

    def validation_loss(self) -> float:
        """Return the mean loss in nats over the tokens of the validation data."""
        total = torch.zeros(2, dtype=torch.float64, device=self.group.device)
        model = self.forward if self.group.world == 1 else self.model
        self.model.eval()
        with torch.no_grad():
            for index, batch in enumerate(self.task.validation()):
                if index % self.group.world == self.group.rank:
                    count = self.task.predicted(batch)
                    total[0] += self._loss(model, batch).double() * count
                    total[1] += count
        self.model.train()
        total = self.group.sum(total)
        return float(total[0] / total[1])

    def _anyone(self, here: bool) -> bool:
        """Return whether `here` holds in any process, so that all of them stop at the same step."""
        if self.group.world == 1:
            return here
        return bool(self.group.sum(torch.tensor(float(here), device=self.group.device)) > 0)

    def _train_step(self, log: TrainingLog, begin: float) -> None:
        """Make a step of a run that would have begun at the time `begin` without pauses."""
        config, group, step = self.config, self.group, self.step + 1
        rate = learning_rate_at(min(self.place + 1, config.max_steps), config)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        torch.manual_seed(_dropout_seed(config.seed, step, group.rank))
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss, tokens = self._add_gradients(self.task.batches(step))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.optimizer.step()
        self.step = step
        if config.minutes:
            self.seconds = self._shared(time.monotonic() - begin)

        if step % config.log_interval == 0 or self.finished:
            mean = float(group.sum(loss) / group.world)
            if not math.isfinite(mean):
                self._diverged(f"the loss is {mean}")
            log.trained(step, self.place, tokens * group.world, rate, mean)
        else:
            log.trained(step, self.place, tokens * group.world, rate, None)

    def _add_gradients(self, batches: list[Batch]) -> tuple[Tensor, int]:
        """Return the mean loss of the batches, and of how many tokens; its gradients are added."""
        counts = [self.task.predicted(batch) for batch in batches]
        total, last = torch.zeros((), device=self.group.device), len(batches) - 1
        whole = self._mean_over_processes(sum(counts))
        for place, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            with self._unsynced() if place < last else nullcontext():
                loss = self._loss(self.forward, batch) * (count / whole)
                loss.backward()
            total += loss.detach()
        return total, sum(counts)

    def _mean_over_processes(self, count: int) -> Tensor | int:
        """Return the mean of a number: gradients are averaged, and each token is to count alike."""
        if self.group.world == 1:
            return count
        whole = torch.tensor(float(count), device=self.group.device)
        return self.group.sum(whole) / self.group.world

    def _unsynced(self) -> AbstractContextManager[None]:
        """Keep gradients in this process: those of the step's last batch go to all, with these."""
        wrapped = self.wrapped
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def _shared(self, seconds: float) -> float:
        """Return the first process's time, for all of them to agree on how far they are."""
        if self.group.world == 1:
            return seconds
        own = torch.tensor(seconds if self.group.is_first else 0.0, dtype=torch.float64)
        return float(self.group.sum(own.to(self.group.device)))

    def _loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        kind, enabled = self.autocast_dtype or torch.float32, self.autocast_dtype is not None
        with torch.autocast(self.group.device.type, kind, enabled=enabled):
            return self.task.loss(model, batch)

    def _evaluate_and_save(self, log: TrainingLog) -> None:
        loss = self.validation_loss()
        if not math.isfinite(loss):
            self._diverged(f"the validation loss is {loss}")
        improved = loss < self.best_loss
        if improved:
            self.best_loss, self.step_of_best = loss, self.step
        if self.group.is_first:
            if improved:
                save_weights(self.out, self.model, SAVE_DTYPES[self.config.save_dtype])
            log.evaluated(self.step, loss, improved, self.task.scores())
            log.sample(self.step, self.task.sample())
        self._save_state()
        log.resume_clock()

    def _diverged(self, what: str) -> NoReturn:
        """Give up; the state that was saved last stays."""
        rate = f"a lower --learning-rate than {self.config.learning_rate}"
        saved = is_file(self.out / "train" / STATE_FILE)
        begin = f"go on from the last save with --resume and {rate}" if saved else f"try {rate}"
        raise NumericalError(f"at step {self.step} {what}: the training has diverged; {begin}")

    def size_of_a_save(self) -> int:
        """Return about how many bytes a save takes: weights, and AdamW's two means of each."""
        count = self.model.parameter_count()
        return count * (SAVE_DTYPES[self.config.save_dtype].itemsize + 3 * torch.float32.itemsize)

    def _save_state(self) -> None:
        if not all(bool(torch.isfinite(part).all()) for part in self.model.parameters()):
            self._diverged("a weight is not a finite number")
        if self.group.is_first:
            buffer = io.BytesIO()
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best_loss": self.best_loss,
                "step_of_best": self.step_of_best,
                "seconds": self.seconds,
            }
            torch.save(state, buffer)
            write_file(self.out / "train" / STATE_FILE, buffer.getvalue())
        self.group.barrier()

    def _save_settings(self) -> None:
        settings = {
            "model": self.task.model_settings,
            "train": self.config.to_dict(),
            **self.origin,
            "corpus": self.task.corpus,
            "corpus_sha256": self.task.sha256,
        }
        data = (json.dumps(settings, indent=2) + "\n").encode()
        write_file(self.out / "train" / SETTINGS_FILE, data)


def read_settings(out: Path) -> dict[str, Any]:
    """Return the settings and the corpus of the run that `out` holds."""
    path = out / "train" / SETTINGS_FILE
    if not is_file(path):
        raise CheckpointError(f"nothing to resume: {path} is missing")
    settings = read_json(path)
    if {"model", "train", "data", "corpus", "corpus_sha256"} - set(settings):
        raise CheckpointError(f"{path} is damaged: it lacks a table")
    settings = {"task": TASKS[0], "validation": None} | settings
    if isinstance(settings["model"], dict) and "bias" in settings["model"]:
        settings["model"] = from_version_1(settings["model"])
        settings["model"] = GPTConfig.from_dict(settings["model"]).to_dict()
    return settings


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) that decays matrices but not biases and norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of matrix products, or None for plain float32."""
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    # PyTorch 2.9 has no such function and cannot tell
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else None


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed that no other step or process of the run uses."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
