"""`edgegpt translate`: a line of text in, a line of text out, with an encoder-decoder."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegpt.errors import DataError, EdgeGPTError, InvalidInputError
from edgegpt.runtime.inputs import open_input

from .console import progress
from .engine_options import engine_options
from .given_path import PATH
from .outputs import check_writable, tell_written
from .search_options import search_options

if TYPE_CHECKING:
    from edgegpt import LanguageModel, Result

__all__ = ["command"]

AT_ONCE = 512  # lines that are read, and ordered by length, before the first is translated


@click.command(
    help="Translate each line of FILE, or of stdin, with the bundle of an encoder-decoder: one "
    "line out for each line in. An empty line stays empty. A line that the model cannot read, such "
    "as one that is too long, ends it: stdout has the lines before it, and --out is not written."
)
@click.argument("bundle", type=PATH)
@click.argument("file", type=PATH, required=False)
@click.option("--out", type=PATH, help="file to write; default: stdout")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="lines a step")
@click.option("--max-new-tokens", type=int, help="default: the bundle's, else 200")
@search_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="print each line's result as JSON")
def command(
    bundle: Path,
    file: Path | None,
    out: Path | None,
    batch: int,
    engine: Any,
    as_json: bool,
    **settings: Any,
) -> None:
    """Translate; `settings` are arguments of `LanguageModel.generate` by their own names."""
    import edgegpt
    from edgegpt.runtime.files import write_file

    check_writable(out)
    lines, total = _lines(file), 0
    if file is not None:  # one that cannot be read is refused before the model opens
        read = list(lines)
        lines, total = iter(read), len(read)
    settings = {name: value for name, value in settings.items() if value is not None}
    with progress() as report:
        report(f"opening {bundle}", 0, 0)
        opened = edgegpt.load(bundle, upgrade=False, **asdict(engine))
        with opened as model:
            if model.bundle.manifest.model_info.encoder is None:
                raise InvalidInputError(
                    f"{bundle} has no encoder, so it does not translate; see edgegpt generate"
                )
            report("translating lines", 0, 0)
            written = []
            found = _translated(model, lines, batch, settings, as_json)
            for done, line in enumerate(found, start=1):
                if out is None:
                    click.echo(line)
                else:
                    written.append(f"{line}\n")
                report("translating lines", done, total)
    if out is not None:
        try:
            write_file(out, "".join(written).encode())
        except OSError as error:
            raise InvalidInputError(f"cannot write {out}: {error.strerror}") from error
        tell_written(out)


def _translated(
    model: "LanguageModel",
    lines: Iterator[str],
    batch: int,
    settings: dict[str, Any],
    as_json: bool,
) -> Iterator[str]:
    """Yield a line for each line.

    Raises:
        EdgeGPTError: names a line that cannot be read, after those before it were yielded.
    """
    from edgegpt.runtime.generation.in_batches import in_batches

    at_once = 1 if sys.stdin.isatty() else AT_ONCE
    done = 0
    while True:
        some, refusal = _sound(model, islice(lines, at_once), done)
        real = [line for line in some if line.strip()]
        results = iter(
            in_batches(lambda part: model.generate(part, **settings), real, batch) if real else ()
        )
        for line in some:
            yield _shown(line, next(results) if line.strip() else None, as_json)
        if refusal is not None:
            raise refusal
        if not some:
            return
        done += len(some)


def _sound(
    model: "LanguageModel", lines: Iterator[str], done: int
) -> tuple[list[str], EdgeGPTError | None]:
    """Return the lines before the first that cannot be read, and why that cannot; None: all can."""
    found: list[str] = []
    try:
        for line in lines:
            if line.strip():
                model.encode_prompt(line)
            found.append(line)
    except InvalidInputError as error:
        return found, InvalidInputError(f"line {done + len(found) + 1}: {error}")
    except DataError as error:  # of stdin, which is read meanwhile
        return found, error
    return found, None


def _shown(line: str, result: "Result | None", as_json: bool) -> str:
    text = "" if result is None else (result.text or "").replace("\n", " ")
    if not as_json:
        return text
    if result is None:
        return json.dumps({"source": line, "text": ""}, ensure_ascii=False)
    return json.dumps({"source": line} | result.to_dict(), ensure_ascii=False)


def _lines(file: Path | None) -> Iterator[str]:
    r"""Yield the lines of a file, or of stdin, without \n or \r\n, and without a mark of UTF-8."""
    done = 0
    try:
        for raw in sys.stdin.buffer if file is None else open_input(file):
            text = raw.decode("utf-8" if done else "utf-8-sig")
            yield text.removesuffix("\n").removesuffix("\r")
            done += 1
    except UnicodeDecodeError:
        where = "stdin" if file is None else str(file)
        raise DataError(f"{where} line {done + 1} is not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
