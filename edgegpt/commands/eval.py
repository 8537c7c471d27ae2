"""`edgegpt eval`: how well does a model predict a text? For bundles, and for checkpoints."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import edgegpt
from edgegpt.errors import CheckpointError, DataError, InvalidInputError
from edgegpt.runtime.inputs import read_input
from edgegpt.runtime.quantity import quantity

from .console import progress, tell_choice
from .engine_options import engine_options
from .given_path import PATH
from .search_options import search_options

if TYPE_CHECKING:
    from edgegpt import LanguageModel
    from edgegpt.runtime.engines.options import EngineOptions
    from edgegpt.runtime.evaluate import Evaluation
    from edgegpt.runtime.progress import Progress
    from edgegpt.runtime.proof.auto import Settled

__all__ = ["command"]


@click.command(
    help="Measure a model's cross-entropy on a text: every token but the first is predicted once, "
    "in full windows of the context. MODEL is a bundle, or a checkpoint (with PyTorch installed). "
    "Of an encoder-decoder's bundle: the loss on pairs, exact match, BLEU and chrF."
)
@click.argument("model", type=PATH)
@click.option(
    "--data",
    required=True,
    type=PATH,
    help="UTF-8 text file; of an encoder-decoder: with a source, a tab and a target in each line",
)
@click.option(
    "--split",
    type=click.Choice(["all", "validation"]),
    default="all",
    show_default=True,
    help="validation: the last tenth, which `edgegpt train` does not train on",
)
@click.option("--context", type=int, help="tokens in a window; default: the model's block size")
@search_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    model: Path,
    data: Path,
    split: str,
    context: int | None,
    engine: "EngineOptions",
    as_json: bool,
    **search: Any,
) -> None:
    """Evaluate and print the figures; `search` has the settings of translations."""
    search = {name: value for name, value in search.items() if value is not None}
    from_checkpoint = _is_checkpoint(model)
    if _has_encoder(model):
        _evaluate_pairs(model, data, split, context, engine, search, as_json)
        return
    if search:
        raise click.UsageError(f"--{next(iter(search)).replace('_', '-')} is for encoder-decoders")
    if from_checkpoint and (engine.backend != "auto" or engine.tf32 or engine.cache):
        raise click.UsageError(
            "--backend, --tf32 and --cache are for bundles; a checkpoint runs in PyTorch"
        )
    settled = None if from_checkpoint else _settled(model, engine)
    raw = _read(data)
    corpus = _Corpus(raw.decode("utf-8-sig"), split)
    with progress() as report:
        report(f"opening {model}", 0, 0)
        if settled is None:
            ran, result = _evaluate_checkpoint(model, corpus, context, engine.threads, report)
        else:
            chosen = asdict(settled.options)
            opened = edgegpt.load(model, context=context, upgrade=False, **chosen)
            with opened:
                ran, result = _evaluate_bundle(opened, corpus, report)
    if as_json:
        about = {"model": str(model), **ran, "data": str(data), "split": split}
        about["data_sha256"] = hashlib.sha256(raw).hexdigest()
        click.echo(json.dumps({**about, **asdict(result)}, indent=1))
        return
    click.echo(f"cross-entropy       {result.loss:.5f} nats per token")
    click.echo(f"perplexity          {result.perplexity:.4f}")
    click.echo(f"bits per character  {result.bits_per_character:.5f}")
    click.echo(
        f"{quantity(result.tokens, 'token')} of {data} ({split}) in windows of {result.context}; "
        f"{ran['precision']} on {ran['engine']}"
    )
    if settled is not None:
        tell_choice(settled)


def _settled(path: Path, engine: "EngineOptions") -> "Settled":
    """Return which engine evaluates a bundle."""
    from edgegpt.runtime.bundle.bundle import Bundle
    from edgegpt.runtime.proof.auto import settle

    return settle(Bundle.open(path), engine)


def _has_encoder(model: Path) -> bool:
    """Return whether a bundle or a checkpoint is an encoder-decoder's."""
    from edgegpt.runtime.bundle.manifest import MANIFEST_NAME

    for name in (MANIFEST_NAME, "config.json"):
        try:
            document = json.loads((model / name).read_bytes())
        except (OSError, ValueError):  # what is wrong is told when it is opened
            continue
        settings = document.get("model") if isinstance(document, dict) else None
        return isinstance(settings, dict) and "encoder" in settings
    return False


def _evaluate_pairs(
    path: Path,
    data: Path,
    split: str,
    context: int | None,
    engine: Any,
    search: dict[str, Any],
    as_json: bool,
) -> None:
    """Evaluate a bundle on pairs, and print the result."""
    from edgegpt.runtime.evaluate import evaluate_pairs
    from edgegpt.runtime.text.pairs import load_pairs

    if split != "all":
        raise click.UsageError("--split is for texts; pairs are evaluated whole")
    if _is_checkpoint(path):
        raise InvalidInputError(f"{path} is a checkpoint; pairs need a bundle: edgegpt export it")
    settled, file = _settled(path, engine), load_pairs(data)
    with progress() as report:
        report(f"opening {path}", 0, 0)
        chosen = asdict(settled.options)
        opened = edgegpt.load(path, context=context, upgrade=False, **chosen)
        with opened as model:
            result = evaluate_pairs(model, file.pairs, search, report)
            info = model.engine.info
            ran = {
                "precision": model.bundle.manifest.precision,
                "engine": f"{info.name} {info.version} ({info.device})",
            }
    if as_json:
        about = {"model": str(path), **ran, "data": str(data), "data_sha256": file.sha256}
        click.echo(json.dumps({**about, **asdict(result)}, indent=1))
        return
    click.echo(f"cross-entropy  {result.loss:.5f} nats per token of the targets")
    click.echo(f"exact match    {result.exact_match:.2f} %")
    click.echo(f"BLEU           {result.bleu:.2f}   ({result.bleu_signature})")
    click.echo(f"chrF           {result.chrf:.2f}   ({result.chrf_signature})")
    click.echo(
        f"{quantity(result.pairs, 'pair')} of {data}, {quantity(result.tokens, 'token')}; "
        f"{ran['precision']} on {ran['engine']}"
    )
    tell_choice(settled)


@dataclass(frozen=True)
class _Corpus:
    """A text, and which part of it to use."""

    text: str
    split: str

    def ids(self, encode: Callable[[str], list[int]]) -> list[int]:
        """Return the ids of the part to use."""
        from edgegpt.runtime.text.split import validation_part

        ids = encode(self.text)
        return ids if self.split == "all" else validation_part(ids)


def _read(path: Path) -> bytes:
    try:
        raw = read_input(path)
        raw.decode()
    except OSError as error:
        raise DataError(f"cannot read the text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    if not raw:
        raise DataError(f"{path} is empty")
    return raw


def _is_checkpoint(folder: Path) -> bool:
    from edgegpt.runtime.bundle.manifest import MANIFEST_NAME

    return (folder / "config.json").is_file() and not (folder / MANIFEST_NAME).is_file()


def _evaluate_bundle(
    model: "LanguageModel", corpus: _Corpus, report: "Progress"
) -> "tuple[dict[str, str], Evaluation]":
    from edgegpt.runtime.evaluate import evaluate_model

    if model.tokenizer is None:
        raise InvalidInputError(f"{model.bundle.folder} has no tokenizer: it cannot read a text")
    result = evaluate_model(model, corpus.ids(model.tokenizer.encode), report)
    info = model.engine.info
    ran = {
        "precision": model.bundle.manifest.precision,
        "engine": f"{info.name} {info.version} ({info.device})",
    }
    return ran, result


def _evaluate_checkpoint(
    path: Path, corpus: _Corpus, context: int | None, threads: int | None, report: "Progress"
) -> "tuple[dict[str, str], Evaluation]":
    """Evaluate in PyTorch, with the code path of training, in float32 on the CPU."""
    import torch

    from edgegpt.checkpoint import load_checkpoint
    from edgegpt.runtime.evaluate import evaluate
    from edgegpt.runtime.text.tokenizer import Tokenizer

    checkpoint = load_checkpoint(path)
    model, block = checkpoint.model, checkpoint.model.config.block_size
    if checkpoint.tokenizer_json is None:
        raise CheckpointError(f"{path} has no tokenizer.json, so it cannot read a text")
    if context is not None and not 1 <= context <= block:
        raise InvalidInputError(f"context is {context}; the model can see 1 to {block} tokens")
    if threads is not None:
        torch.set_num_threads(threads)

    @torch.no_grad()
    def logits_of(windows: Any) -> Iterator[tuple[int, Any]]:
        yield 0, model(torch.from_numpy(windows)).numpy()  # (B, T, V)

    tokenizer = Tokenizer(checkpoint.tokenizer_json, model.config.vocab_size)
    ids = corpus.ids(tokenizer.encode)
    characters = len(tokenizer.decode(ids[1:]))
    result = evaluate(logits_of, ids, characters, context or block, progress=report)
    return {"precision": "float32", "engine": f"PyTorch {torch.__version__} (cpu)"}, result
