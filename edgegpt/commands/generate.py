"""`edgegpt generate`: continue a prompt, printing the text as it comes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import waiting
from .engine_options import engine_options

if TYPE_CHECKING:
    from edgegpt import LanguageModel, Result
    from edgegpt.runtime.engines.options import EngineOptions

__all__ = ["command"]

EARLY_STOPPING: dict[str | None, bool | str] = {"false": False, "true": True, "never": "never"}
# Arguments of `generate` that `stream` does not have.
FOR_SEARCHES = ("num_return_sequences", "length_penalty", "early_stopping")


@click.command(help="Continue a prompt with a bundle. The text goes to stdout as it comes.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", help="text to continue")
@click.option("--prompt-ids", help="token ids to continue, as 1,2,3; for bundles without tokenizer")
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
    "--num-beams",
    "--beams",
    type=int,
    help="search the best text with so many beams and print it alone; default: the bundle's, or 1",
)
@click.option(
    "--n-best",
    "num_return_sequences",
    type=int,
    help="with beams: print so many of the best texts, each after its score",
)
@click.option("--length-penalty", type=float, help="with beams; default: the bundle's, else 1")
@click.option(
    "--early-stopping",
    type=click.Choice(["false", "true", "never"]),
    help="with beams: when to end the search; default: the bundle's, else false",
)
@click.option("--no-repeat-ngram-size", type=int, help="no so many ids occur twice; 0: any may")
@click.option("--min-new-tokens", type=int, help="an end id comes after so many at the earliest")
@click.option("--forced-bos", type=int, help="token id that comes first")
@click.option("--context", type=int, help="tokens the model sees; default: its block size")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    bundle: Path,
    prompt: str | None,
    prompt_ids: str | None,
    chat: bool,
    system: str | None,
    end_ids: tuple[int, ...],
    context: int | None,
    engine: "EngineOptions",
    as_json: bool,
    early_stopping: str | None,
    **settings: Any,
) -> None:
    """Generate; `settings` are the arguments of `LanguageModel.generate` by their own names."""
    given = _prompt(prompt, prompt_ids)
    if chat and not isinstance(given, str):
        raise click.UsageError("--chat needs --prompt")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat")
    settings["end_ids"] = end_ids or None
    settings["early_stopping"] = EARLY_STOPPING.get(early_stopping)
    import edgegpt

    with waiting(f"opening {bundle}"):
        # No upgrade, because there is only one generation.
        opened = edgegpt.load(bundle, context=context, upgrade=False, **asdict(engine))
    with opened as model:
        if chat:
            messages = [{"role": "user", "content": given}]
            if system is not None:
                messages.insert(0, {"role": "system", "content": system})
            given = model.apply_chat_template(messages)
        if as_json or model.tokenizer is None or _searches(model, settings):
            result = model.generate(given, **settings)
            _print(result, given, as_json=as_json)
            return
        for name in FOR_SEARCHES:
            del settings[name]
        stream = model.stream(given, **settings)
        if not chat:
            click.echo(given if isinstance(given, str) else model.tokenizer.decode(given), nl=False)
        for piece in stream:
            click.echo(piece, nl=False)
        click.echo()
        _tell_speed(stream.result)


def _searches(model: "LanguageModel", settings: dict[str, Any]) -> bool:
    """Return whether beams are asked for, by the caller or by the bundle, or how many to print."""
    beams = settings["num_beams"]
    recommended = model.usage.search.num_beams if beams is None else beams
    return (recommended or 1) > 1 or settings["num_return_sequences"] is not None


def _print(result: "Result", prompt: str | list[int], *, as_json: bool) -> None:
    """Print a result as JSON or ids, or the text of a search, without its prompt."""
    if as_json:
        click.echo(json.dumps(asdict(result) | {"prompt": prompt}))
        return
    for one in result.hypotheses or (result,):
        score = f"{one.score:.4f} " if len(result.hypotheses) > 1 else ""
        click.echo(score + (json.dumps(one.token_ids) if one.text is None else one.text))
    if result.text is not None:
        _tell_speed(result)


def _prompt(text: str | None, ids: str | None) -> str | list[int]:
    if (text is None) == (ids is None):
        raise click.UsageError("give either --prompt or --prompt-ids")
    if text is not None:
        return text
    try:
        return [int(part) for part in str(ids).split(",")]
    except ValueError:
        raise click.UsageError(f"--prompt-ids takes numbers as 1,2,3, not {ids!r}") from None


def _tell_speed(result: "Result") -> None:
    timings = result.timings
    line = (
        f"[{len(result.token_ids)} tokens, {timings.tokens_per_second:.0f} tokens/s, first after "
        f"{timings.first_token_s * 1000:.0f} ms, ended by {result.finish_reason}, "
        f"seed {result.seed}]"
    )
    click.echo(line, err=True)
