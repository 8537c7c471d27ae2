"""`edgegpt generate`: continue a prompt, or make a text from a source, printing it as it comes."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.errors import DataError, InvalidInputError
from edgegpt.runtime.inputs import read_input
from edgegpt.runtime.quantity import quantity

from .console import waiting
from .engine_options import engine_options
from .given_path import PATH
from .sampling_options import LIVELY, sampling_options
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
@click.argument("bundle", type=PATH)
@click.option("-p", "--prompt", help="text to continue; -: what stdin has")
@click.option("-f", "--prompt-file", type=PATH, help="UTF-8 file with the text")
@click.option("--prompt-ids", help="token ids to continue, as 1,2,3; for bundles without tokenizer")
@click.option("--source", help="text to translate or sum up, for bundles with an encoder")
@click.option("--source-file", type=PATH, help="UTF-8 file with the text of --source")
@click.option("--source-ids", help="token ids of a source, as 1,2,3")
@click.option("--chat", is_flag=True, help="the prompt is a message to the bundle's chat template")
@click.option("--system", help="with --chat: the system's message before it")
@click.option("-n", "--max-new-tokens", type=int, help="default: the bundle's, else 200")
@sampling_options(f"0: most likely; default: the bundle's, else {LIVELY}, of sources 0")
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
@click.option("--json-schema", type=PATH, help="file: write JSON of this")
@click.option("--regex", help="write what this regular expression matches")
@search_options
@click.option("--context", type=int, help="tokens the model sees; default: its block size")
@engine_options
@click.option("--no-echo", is_flag=True, help="do not print the prompt before its continuation")
@click.option("-q", "--quiet", is_flag=True, help="print the text alone, no line about its speed")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    bundle: Path,
    prompt: str | None,
    prompt_file: Path | None,
    prompt_ids: str | None,
    source: str | None,
    source_file: Path | None,
    source_ids: str | None,
    chat: bool,
    system: str | None,
    end_ids: tuple[int, ...],
    json_schema: Path | None,
    context: int | None,
    engine: "EngineOptions",
    no_echo: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Generate; `settings` are the arguments of `LanguageModel.generate` by their own names."""
    given, is_source = _given(
        {
            "--prompt": prompt,
            "--prompt-file": prompt_file,
            "--prompt-ids": prompt_ids,
            "--source": source,
            "--source-file": source_file,
            "--source-ids": source_ids,
        }
    )
    if chat and (is_source or not isinstance(given, str)):
        raise click.UsageError("--chat needs a --prompt")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat")
    settings["end_ids"] = end_ids or None
    settings["json_schema"] = None if json_schema is None else _read(json_schema)
    import edgegpt

    with waiting(f"opening {bundle}"):
        # No upgrade, because there is only one generation.
        opened = edgegpt.load(bundle, context=context, upgrade=False, **asdict(engine))
    with opened as model:
        _check_kind(model, bundle, is_source)
        if chat:
            given = _in_template(model, str(given), system)
        searches = _searches(model, settings)
        if settings["temperature"] is None and not (searches or settings["speculate"]):
            settings["temperature"] = _temperature(model, is_source)
        if as_json or model.tokenizer is None or searches:
            result = model.generate(given, **settings)
            _print(result, given, is_source=is_source, as_json=as_json)
        else:
            echo = not (chat or is_source or no_echo)
            result = _streamed(model, given, settings, echo)
    if not (quiet or as_json or result.text is None):
        _tell_speed(result, greedy=searches or not settings["temperature"])


def _in_template(model: "LanguageModel", given: str, system: str | None) -> str:
    """Return a message in the bundle's chat template."""
    messages = [{"role": "user", "content": given}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return model.apply_chat_template(messages)


def _temperature(model: "LanguageModel", is_source: bool) -> float:
    """Return the temperature of a call that names none."""
    known = model.usage.sampling.temperature
    return (0.0 if is_source else LIVELY) if known is None else known


def _streamed(
    model: "LanguageModel", given: str | list[int], settings: dict[str, Any], echo: bool
) -> "Result":
    """Print the text as it comes, after its prompt if that is to be echoed."""
    arguments = {name: settings[name] for name in settings if name not in FOR_SEARCHES}
    stream = model.stream(given, **arguments)
    if echo:
        assert model.tokenizer is not None
        text = given if isinstance(given, str) else model.tokenizer.decode(given)
        click.echo(text, nl=False)
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()
    return stream.result


def _given(options: dict[str, str | Path | None]) -> tuple[str | list[int], bool]:
    """Return the prompt or the source that the options give, and whether it is a source."""
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) != 1:
        raise click.UsageError(f"give one of {', '.join(options)}")
    ((name, value),) = given.items()
    is_source = name.startswith("--source")
    if isinstance(value, Path):
        text = _read(value)
        return text.strip() if is_source else text, is_source
    if (name, value) == ("--prompt", "-"):
        return _decoded(sys.stdin.buffer.read(), "stdin"), is_source
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
        click.echo(json.dumps(result.to_dict() | {kind: given}))
        return
    for one in result.hypotheses or (result,):
        score = f"{one.score:.4f} " if len(result.hypotheses) > 1 else ""
        click.echo(score + (json.dumps(one.token_ids) if one.text is None else one.text))


def _ids(name: str, value: str) -> list[int]:
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.UsageError(f"{name} takes numbers as 1,2,3, not {value!r}") from None


def _read(path: Path) -> str:
    try:
        return _decoded(read_input(path), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _decoded(data: bytes, name: str) -> str:
    """Return the text without what editors and shells add: a mark of UTF-8, a line end."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")


def _check_kind(model: "LanguageModel", bundle: Path, is_source: bool) -> None:
    """Refuse a source for a model without an encoder, and a prompt for one with an encoder."""
    has_encoder = model.bundle.manifest.model_info.encoder is not None
    if is_source and not has_encoder:
        raise InvalidInputError(f"{bundle} has no encoder, so it takes no source; give --prompt")
    if has_encoder and not is_source:
        raise InvalidInputError(f"{bundle} has an encoder: it makes a text from a --source")


def _tell_speed(result: "Result", *, greedy: bool) -> None:
    """Tell how fast it was, and the seed, if there was any chance."""
    timings = result.timings
    line = (
        f"[{quantity(len(result.token_ids), 'token')}, "
        f"{timings.tokens_per_second:.0f} tokens/s, first after "
        f"{timings.first_token_s * 1000:.0f} ms, ended by {result.finish_reason}"
    )
    click.echo(f"{line}]" if greedy else f"{line}, seed {result.seed}]", err=True)
