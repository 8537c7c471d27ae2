"""`edgegpt generate`: continue a prompt, or make a text from a source, printing it as it comes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.errors import DataError, InvalidInputError

from .console import waiting
from .engine_options import engine_options
from .search_options import search_options

if TYPE_CHECKING:
    from edgegpt import LanguageModel, Result
    from edgegpt.runtime.engines.options import EngineOptions

__all__ = ["command"]

# Arguments of `generate` that `stream` does not have.
FOR_SEARCHES = ("num_return_sequences", "length_penalty", "early_stopping")


@click.command(
    help="Continue a prompt with a bundle, or, if it has an encoder, make a text from a source. "
    "The text goes to stdout as it comes."
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", help="text to continue")
@click.option("--prompt-ids", help="token ids to continue, as 1,2,3; for bundles without tokenizer")
@click.option("--source", help="text to translate or sum up, for bundles with an encoder")
@click.option(
    "--source-file", type=click.Path(path_type=Path), help="UTF-8 file with the text of --source"
)
@click.option("--source-ids", help="token ids of a source, as 1,2,3")
@click.option("--chat", is_flag=True, help="the prompt is a message to the bundle's chat template")
@click.option("--system", help="with --chat: the system's message before it")
@click.option("--max-new-tokens", type=int, help="default: the bundle's, else 200")
@click.option("--temperature", type=float, help="0: most likely; default: the bundle's, else 0")
@click.option("--top-k", type=int, help="sample among the k most likely, 0: all; default as above")
@click.option("--top-p", type=float, help="nucleus sampling; default: the bundle's, else 1")
@click.option("--min-p", type=float, help="relative to the best; default: the bundle's, else 0")
@click.option("--repetition-penalty", type=float, help="default: the bundle's, else 1")
@click.option("--seed", type=int, help="of the random numbers; default: a new one")
@click.option("--stop", multiple=True, help="end where this text appears; may be repeated")
@click.option(
    "--end-id",
    "end_ids",
    type=int,
    multiple=True,
    help="token id that ends it, in place of the bundle's; may be repeated",
)
@click.option("--ignore-eos", is_flag=True, help="go on after the bundle's end ids")
@click.option("--overflow", type=click.Choice(["slide", "stop"]), help="when the context is full")
@click.option(
    "--speculate", type=int, default=0, help="draft so many tokens from the text; for temperature 0"
)
@click.option(
    "--n-best",
    "num_return_sequences",
    type=int,
    help="with beams: print so many of the best texts, each after its score",
)
@search_options
@click.option("--context", type=int, help="tokens the model sees; default: its block size")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    bundle: Path,
    prompt: str | None,
    prompt_ids: str | None,
    source: str | None,
    source_file: Path | None,
    source_ids: str | None,
    chat: bool,
    system: str | None,
    end_ids: tuple[int, ...],
    context: int | None,
    engine: "EngineOptions",
    as_json: bool,
    **settings: Any,
) -> None:
    """Generate; `settings` are the arguments of `LanguageModel.generate` by their own names."""
    given, is_source = _given(prompt, prompt_ids, source, source_file, source_ids)
    if chat and not isinstance(given, str):
        raise click.UsageError("--chat needs --prompt")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat")
    settings["end_ids"] = end_ids or None
    import edgegpt

    with waiting(f"opening {bundle}"):
        # No upgrade, because there is only one generation.
        opened = edgegpt.load(bundle, context=context, upgrade=False, **asdict(engine))
    with opened as model:
        _check_kind(model, bundle, is_source)
        if chat:
            messages = [{"role": "user", "content": given}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            given = model.apply_chat_template(messages)
        if as_json or model.tokenizer is None or _searches(model, settings):
            result = model.generate(given, **settings)
            _print(result, given, is_source=is_source, as_json=as_json)
            return
        for name in FOR_SEARCHES:
            del settings[name]
        stream = model.stream(given, **settings)
        if not chat and not is_source:
            click.echo(given if isinstance(given, str) else model.tokenizer.decode(given), nl=False)
        for piece in stream:
            click.echo(piece, nl=False)
        click.echo()
        _tell_speed(stream.result)


def _given(
    prompt: str | None,
    prompt_ids: str | None,
    source: str | None,
    source_file: Path | None,
    source_ids: str | None,
) -> tuple[str | list[int], bool]:
    """Return the prompt or the source, and whether it is a source."""
    options = {
        "--prompt": prompt,
        "--prompt-ids": prompt_ids,
        "--source": source,
        "--source-file": source_file,
        "--source-ids": source_ids,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) != 1:
        raise click.UsageError(f"give one of {', '.join(options)}")
    ((name, value),) = given.items()
    is_source = name.startswith("--source")
    if isinstance(value, Path):
        return _read(value), is_source
    return (_ids(name, value) if name.endswith("ids") else value), is_source


def _searches(model: "LanguageModel", settings: dict[str, Any]) -> bool:
    """Return whether beams are asked for, by the caller or by the bundle, or how many to print."""
    beams = settings["num_beams"]
    recommended = model.usage.search.num_beams if beams is None else beams
    return (recommended or 1) > 1 or settings["num_return_sequences"] is not None


def _print(result: "Result", given: str | list[int], *, is_source: bool, as_json: bool) -> None:
    """Print a result as JSON or ids, or the text of a search, without its prompt."""
    if as_json:
        kind = "source" if is_source else "prompt"
        click.echo(json.dumps(asdict(result) | {kind: given}))
        return
    for one in result.hypotheses or (result,):
        score = f"{one.score:.4f} " if len(result.hypotheses) > 1 else ""
        click.echo(score + (json.dumps(one.token_ids) if one.text is None else one.text))
    if result.text is not None:
        _tell_speed(result)


def _ids(name: str, value: str) -> list[int]:
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.UsageError(f"{name} takes numbers as 1,2,3, not {value!r}") from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode().strip()
    except OSError as error:
        raise DataError(f"cannot read the source {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None


def _check_kind(model: "LanguageModel", bundle: Path, is_source: bool) -> None:
    """Refuse a source for a model without an encoder, and a prompt for one with an encoder."""
    has_encoder = model.bundle.manifest.model_info.encoder is not None
    if is_source and not has_encoder:
        raise InvalidInputError(f"{bundle} has no encoder, so it takes no source; give --prompt")
    if has_encoder and not is_source:
        raise InvalidInputError(f"{bundle} has an encoder: it makes a text from a --source")


def _tell_speed(result: "Result") -> None:
    timings = result.timings
    line = (
        f"[{len(result.token_ids)} tokens, {timings.tokens_per_second:.0f} tokens/s, first after "
        f"{timings.first_token_s * 1000:.0f} ms, ended by {result.finish_reason}, "
        f"seed {result.seed}]"
    )
    click.echo(line, err=True)
