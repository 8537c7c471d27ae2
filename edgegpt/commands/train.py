"""`edgegpt train`: a file of text or of pairs in, a checkpoint folder out."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click

from edgegpt.checkpoint import is_checkpoint, load_checkpoint
from edgegpt.errors import CheckpointError, InvalidInputError
from edgegpt.exit_codes import INTERRUPTED
from edgegpt.model import GPTConfig
from edgegpt.presets import DEFAULT_PRESETS, TASKS, Preset, load_preset, preset_names
from edgegpt.runtime.files import check_room
from edgegpt.runtime.quantity import quantity
from edgegpt.runtime.text.pairs import load_pairs
from edgegpt.training.config import TrainConfig
from edgegpt.training.data import load_corpus
from edgegpt.training.distributed import Processes, processes
from edgegpt.training.lock import LOCK_FILE, is_unsaved, only_run
from edgegpt.training.log import training_log
from edgegpt.training.pair_task import PairTask, seq2seq_config
from edgegpt.training.pairs import split_pairs
from edgegpt.training.task import Task
from edgegpt.training.text_task import TextTask
from edgegpt.training.trainer import Trainer, read_settings

from .given_path import PATH, GivenPath

__all__ = ["command"]

# Settings of the training that a task does not read.
UNREAD = {"text": ("batch_tokens", "label_smoothing"), "seq2seq": ("batch_size", "eval_windows")}
LONG = 600  # seconds of a run from which on it is told how to end sooner


def _setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add one option for each setting of the model and of the training."""
    for config in (TrainConfig, GPTConfig):
        hints = get_type_hints(config, include_extras=True)
        for field in reversed(fields(config)):
            hint = hints[field.name]
            if get_origin(hint) is Annotated:
                function = _option(field.name, *get_args(hint))(function)
    return function


def _option(name: str, hint: Any, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = name.replace("_", "-")
    if hint is bool:
        return click.option(f"--{flag}/--no-{flag}", default=None, help=text)
    if get_origin(hint) is Literal:
        return click.option(f"--{flag}", type=click.Choice(get_args(hint)), help=text)
    return click.option(f"--{flag}", type=hint, help=text)


@click.command(
    help="Train a model: a character-level GPT on a text, or an encoder-decoder on pairs.\n\n"
    "Settings come from the preset; each can be overridden by its option. Those of an "
    "encoder-decoder's model are of both stacks. Under torchrun the processes share each step's "
    "batch."
)
@click.option("--task", type=click.Choice(TASKS), help="default: the preset's, or text")
@click.option(
    "--data",
    type=GivenPath(),
    metavar="TEXT",
    help="UTF-8 text file, or 'tinyshakespeare'; default: CPython's help texts. Of seq2seq: a file "
    "with a source, a tab and a target in each line",
)
@click.option(
    "--validation",
    type=PATH,
    help="of seq2seq: another file of pairs; default: a tenth of --data, at most 10,000",
)
@click.option(
    "--shared-vocabulary/--two-vocabularies",
    "shared",
    default=None,
    help="of seq2seq: whether both sides have one; default: shared",
)
@click.option(
    "--preset",
    help=f"{' or '.join(preset_names())}; default: {' or '.join(DEFAULT_PRESETS.values())}",
)
@click.option(
    "--init-from",
    type=PATH,
    help="checkpoint folder whose weights and model settings the run begins with",
)
@click.option("--out", required=True, type=PATH, help="checkpoint folder")
@click.option("--resume", is_flag=True, help="go on with the run in --out, with its settings")
@click.option("--force", is_flag=True, help="replace an earlier checkpoint in --out")
@click.option("--stop-at", type=click.IntRange(min=1), help="pause after this step, to --resume")
@click.option(
    "--compile/--no-compile",
    "fuse",
    default=None,
    help="train with kernels that torch.compile fuses; default: on CUDA, for a text, in one "
    "process",
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
@_setting_options
def command(
    task: str | None,
    data: str | None,
    validation: Path | None,
    shared: bool | None,
    preset: str | None,
    init_from: Path | None,
    out: Path,
    resume: bool,
    force: bool,
    stop_at: int | None,
    fuse: bool | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Run the training; exit code 0 when finished or paused as asked, 130 when interrupted."""
    if resume and (preset or force or init_from or task):
        raise click.UsageError(
            "--resume keeps the run's settings: no --task, no --preset, no --init-from and no "
            "--force"
        )
    given = {name: value for name, value in settings.items() if value is not None}
    # Read before --force clears --out, which may be the same folder.
    origin = None if init_from is None else load_checkpoint(init_from)
    if origin is not None and not isinstance(origin.config, GPTConfig):
        raise InvalidInputError(
            f"{init_from} is an encoder-decoder; --init-from is for models without an encoder"
        )
    with processes() as group:
        if resume:
            stored = read_settings(out)
            base = Preset(stored["task"], stored["model"], stored["train"])
            data, validation = data or stored["data"], validation or _path(stored["validation"])
        else:
            _check_folder(out, force)
            base = load_preset(preset or DEFAULT_PRESETS[task or TASKS[0]])
            if task not in (None, base.task):
                raise click.UsageError(
                    f"the preset {preset} is of the task {base.task}, not {task}"
                )
            if origin is not None:
                base = replace(base, model=origin.model.config.to_dict())
        learner, config = _learner(
            base, given, _Data(data, validation, shared), out if resume else None, group
        )
        other = None if validation is None else str(validation)
        named = {"task": base.task, "data": data, "validation": other}
        trainer = Trainer(learner, config, named, out, group)
        if origin is not None and init_from is not None:
            learner.take_weights(origin, init_from)
            origin.release()  # its file may be in --out, and Windows removes none that is mapped
        check_room(out, trainer.size_of_a_save())
        with only_run(out) if group.is_first else nullcontext():
            group.barrier()
            if resume:
                trainer.resume()
            else:
                if group.is_first:
                    _clear_folder(out)
                trainer.start()
            with training_log(out / "metrics.jsonl" if group.is_first else None) as log:
                _announce(trainer, log.note)
                # Batches of pairs change their shape, and every new one is compiled anew. Several
                # processes have not been tried.
                apart = base.task != "text" or group.world > 1
                trainer.compile(False if fuse is None and apart else fuse, log.note)
                trainer.run(log, stop_at)
        if group.is_first:
            _conclude(trainer, as_json)
        return INTERRUPTED if trainer.interrupted and not trainer.finished else 0


@dataclass(frozen=True)
class _Data:
    """What the user names: a text, or pairs, others for validation, and how many vocabularies."""

    data: str | None
    validation: Path | None
    shared: bool | None


def _learner(
    base: Preset, given: dict[str, Any], named: _Data, earlier: Path | None, group: Processes
) -> tuple[Task, TrainConfig]:
    """Return what is trained, and the settings of the training, some of them `given` by options."""
    unread = [f"--{name.replace('_', '-')}" for name in UNREAD[base.task] if name in given]
    if unread:
        raise click.UsageError(f"{unread[0]} is not for --task {base.task}")
    model_names = {field.name for field in fields(GPTConfig)}
    changes = {name: given[name] for name in given if name in model_names}
    config = TrainConfig.from_dict(
        base.train | {name: given[name] for name in given if name not in model_names}
    )
    if base.task == "seq2seq":
        return _on_pairs(base.model, changes, config, named, earlier, group), config
    if named.validation is not None or named.shared is not None:
        raise click.UsageError("--validation and vocabularies are of --task seq2seq")
    if "vocab_size" in changes:
        raise click.UsageError("the characters of a text are its vocabulary: no --vocab-size")
    model = GPTConfig.from_dict(base.model | changes)
    return TextTask(model, config, load_corpus(named.data), group), config


def _on_pairs(
    model: dict[str, Any],
    changes: dict[str, Any],
    config: TrainConfig,
    named: _Data,
    earlier: Path | None,
    group: Processes,
) -> PairTask:
    if named.data is None:
        raise click.UsageError("--task seq2seq needs --data PAIRS.tsv")
    settings = seq2seq_config(model, changes, named.shared)
    file = load_pairs(Path(named.data))
    if named.validation is None:
        train, held_out = split_pairs(file)
    else:
        train, held_out = file.pairs, load_pairs(named.validation).pairs
    return PairTask(settings, config, file, train, held_out, group, earlier)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _check_folder(out: Path, force: bool) -> None:
    """Refuse an --out that is neither a new folder nor an earlier checkpoint."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or out.is_symlink():
        raise CheckpointError(f"{out} cannot be made a folder; choose another --out")
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or is_unsaved(out))):
        return
    if not is_checkpoint(out):
        raise CheckpointError(f"{out} exists and is not a checkpoint; choose another --out")
    if not force:
        raise CheckpointError(
            f"{out} holds a checkpoint; go on with --resume or replace it with --force"
        )


def _clear_folder(out: Path) -> None:
    """Remove an earlier checkpoint; called only once the new run is known to start."""
    try:
        for path in [*out.iterdir(), *(out / "train").iterdir()]:
            if path.is_dir() and path.name != "train":
                shutil.rmtree(path)
            elif path.name not in ("train", LOCK_FILE):
                path.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write to {out}: {error.strerror}") from error


def _announce(trainer: Trainer, note: Callable[[str], None]) -> None:
    precision = "bfloat16" if trainer.autocast_dtype else "float32"
    note(f"{trainer.task.corpus}: {trainer.task.facts()}")
    note(
        f"{trainer.model.parameter_count():,} parameters on {trainer.group.device.type} "
        f"in {precision}, {quantity(trainer.group.world, 'process', 'processes')}"
    )
    if trainer.group.is_first and not trainer.finished:
        note(_expected(trainer))


def _expected(trainer: Trainer) -> str:
    """Return how long the run will take, as a line for the user."""
    config, one = trainer.config, trainer.seconds_of_a_step()
    left = one * (config.max_steps - trainer.step)
    time_left = 60 * config.minutes - trainer.seconds
    step = f"about {one:.2g} s a step"
    minutes = quantity(config.minutes, "minute")
    if 0 < time_left < left:
        return f"{step}: {quantity(max(1, round(time_left / one)), 'step')} in {minutes}"
    told = f"{step}: {_duration(left)} for {quantity(config.max_steps - trainer.step, 'step')}"
    return f"{told}; --minutes N ends sooner" if left > LONG and not config.minutes else told


def _duration(seconds: float) -> str:
    """Return a time in words, as rough as an estimate is."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _conclude(trainer: Trainer, as_json: bool) -> None:
    result = {
        "checkpoint": str(trainer.out),
        "finished": trainer.finished,
        "step": trainer.step,
        "best_validation_loss": trainer.best_loss if trainer.step_of_best else None,
        "parameters": trainer.model.parameter_count(),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    if trainer.step_of_best:
        click.echo(
            f"{trainer.out}: validation loss {trainer.best_loss:.4f} at step {trainer.step_of_best}"
        )
    if not trainer.finished:
        click.echo(f"paused at step {trainer.step}; go on with: --resume --out {trainer.out}")
