"""`edgegpt serve`: an OpenAI-compatible server on a bundle."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edgegpt.errors import DataError, InvalidInputError
from edgegpt.runtime.inputs import read_input
from edgegpt.runtime.quantity import quantity

from .console import waiting
from .engine_options import engine_options
from .given_path import PATH
from .number import Number

__all__ = ["command"]

KEY_VARIABLE = "EDGEGPT_API_KEY"
LOG_LINE = "%(asctime)s %(message)s"
EXAMPLES = """\b
Examples:
  edgegpt serve build/shakespeare-char
  edgegpt serve bundle --port 9000 --rows 32 --cors https://app.example
  edgegpt serve bundle --host 0.0.0.0 --allow-host device.local --api-key-file keys.txt
"""


@click.command(
    help="Serve a bundle over HTTP, as OpenAI's API does: /v1/completions, /v1/chat/completions, "
    "/v1/models, /tokenize, /detokenize, /health, /metrics.",
    epilog=EXAMPLES,
)
@click.argument("bundle", type=PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one"
)
@click.option("--name", help="id of the model in answers; default: the folder's name")
@click.option(
    "--rows", type=click.IntRange(1, 1024), default=16, show_default=True, help="texts at a time"
)
@click.option(
    "--queue", type=click.IntRange(0), default=256, show_default=True, help="texts that may wait"
)
@click.option("--context", type=click.IntRange(1), help="tokens of a text; default: the bundle's")
@click.option(
    "--steady/--no-steady",
    default=None,
    help="let no text depend on how many others there are; default: in int8 and int4, which then "
    "have at most 15 rows (float32 never does)",
)
@click.option(
    "--prefix",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="a text that chats have as the system's message, or, without a chat template, that texts "
    "begin with; it is computed before the server listens",
)
@click.option(
    "--prefix-dir",
    type=PATH,
    help="folder where what was computed of each --prefix is kept, so that a restart is quick",
)
@click.option("--api-key", multiple=True, help=f"a key that opens it; also ${KEY_VARIABLE}")
@click.option("--api-key-file", type=PATH, help="file with a key a line")
@click.option("--allow-host", multiple=True, help="a name of this machine, for Host headers")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="a site whose pages may ask")
@click.option("--tls-cert", type=PATH, help="certificate, PEM")
@click.option("--tls-key", type=PATH, help="its key, PEM")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=32768,
    show_default=True,
    help="most new tokens that a request may ask for",
)
@click.option(
    "--drain",
    type=Number(0, 3600),
    default=30.0,
    show_default=True,
    help="seconds in which texts may end after SIGTERM",
)
@click.option("--log-json", is_flag=True, help="log requests as JSON, a line each")
@click.option("--json", "as_json", is_flag=True, help="say as JSON where it listens")
@engine_options
def command(
    bundle: Path,
    name: str | None,
    rows: int,
    queue: int,
    context: int | None,
    steady: bool | None,
    prefix: tuple[Path, ...],
    prefix_dir: Path | None,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    allow_host: tuple[str, ...],
    cors: tuple[str, ...],
    max_tokens: int,
    log_json: bool,
    as_json: bool,
    engine: Any,
    **where: Any,
) -> None:
    """Open the bundle and serve it until a signal; `where` has the place to listen."""
    import edgegpt
    from edgegpt.runtime.server.app import application
    from edgegpt.runtime.server.guard import is_local
    from edgegpt.runtime.server.run import listen, run
    from edgegpt.runtime.server.service import Limits, Service

    for origin in cors:
        if not re.fullmatch(r"https?://[^/*?#]+", origin):
            raise InvalidInputError(
                f"--cors {origin} is no origin: it must be like https://app.example, without a path"
            )
    name = bundle.resolve().name if name is None else name
    if not name or not name.isprintable():  # bytes that are no UTF-8 are not printable, either
        raise InvalidInputError(
            f"the model's name would be {name!a}; give another --name, of printable characters"
        )
    if "" in (where["host"], *allow_host):
        raise InvalidInputError(
            "a --host or --allow-host is empty; --host 0.0.0.0 is every address"
        )
    place = _place(**where)
    keys, prefixes = _keys(api_key, api_key_file), _prefixes(prefix, prefix_dir)
    listening = listen(place)  # a port that is in use is told before the model opens
    with waiting(f"opening {bundle}"):
        model = edgegpt.load(
            bundle,
            engine.backend,
            threads=engine.threads,
            context=context,
            tf32=engine.tf32,
            cuda_graph=engine.cuda_graph,
            cache=engine.cache,
            upgrade=False,
        )
    with model, _requests_told(log_json):
        if steady is None:
            rounded = model.bundle.manifest.precision in ("int8", "int4")
            steady = rounded and not model.engine.uniform
        service = Service(
            model,
            name,
            rows=rows,
            queue=queue,
            steady=steady,
            limits=Limits(tokens=max_tokens),
            store=None if prefix_dir is None else _kept(model, prefixes, prefix_dir),
        )
        if not keys and not is_local(place.host):
            click.echo(
                f"warning: whoever reaches {place.host} can use this server; --api-key closes it",
                err=True,
            )
        app = application(service, hosts=allow_host, origins=cors, keys=keys)
        run(app, service, place, listening, lambda: _tell(service, place, listening, as_json))


def _place(host: str, port: int, drain: float, tls_cert: Path | None, tls_key: Path | None) -> Any:
    """Return where to listen."""
    from edgegpt.runtime.server.run import Place

    if (tls_cert is None) != (tls_key is None):
        raise InvalidInputError("--tls-cert and --tls-key belong together; give both")
    for file in (tls_cert, tls_key):
        if file is not None and not file.is_file():
            raise InvalidInputError(f"there is no file {file}")
    return Place(host, port, drain, tls_cert, tls_key)


def _keys(given: tuple[str, ...], file: Path | None) -> list[str]:
    """Return the keys that open the server."""
    keys = [*given, *filter(None, [os.environ.get(KEY_VARIABLE)])]
    if file is not None:
        try:
            lines = read_input(file).decode("utf-8-sig").splitlines()
            keys += [line.strip() for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", error)
            raise DataError(f"cannot read {file}: {reason}") from error
        if not keys:
            raise DataError(f"{file} has no key")
    if any(not key.strip() for key in given):
        raise InvalidInputError("an --api-key is empty")
    return keys


def _prefixes(files: tuple[Path, ...], folder: Path | None) -> dict[Path, str]:
    """Return the texts of the prefixes, without the line break at their ends."""
    if files and folder is None:
        raise InvalidInputError("--prefix needs a --prefix-dir, the folder where it is kept")
    try:
        texts = {file: read_input(file).decode("utf-8-sig") for file in files}
        # A file that was written on Windows stands for the same text.
        return {file: text.replace("\r\n", "\n").removesuffix("\n") for file, text in texts.items()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read a --prefix: {error}") from error


def _kept(model: Any, prefixes: dict[Path, str], folder: Path) -> Any:
    """Have the prefixes in the folder; say of each what that took. Return the store."""
    from edgegpt.runtime.generation.prefix_store import PrefixStore
    from edgegpt.runtime.server.prefixes import keep

    store = PrefixStore(folder, model.bundle.manifest.id, model.engine)
    for file, text in prefixes.items():
        with waiting(f"computing the prefix {file}"):
            kept = keep(model, store, text)
        how = "computed" if kept.fed else "there already"
        told = f"{quantity(kept.tokens, 'token')}, {kept.size / 1e6:.1f} MB, {how}"
        click.echo(f"prefix {file}: {told}, {kept.seconds:.2f} s", err=True)
    return store


@contextmanager
def _requests_told(as_json: bool) -> Iterator[None]:
    """Write a line to stderr for each request that ends, as long as this command runs."""
    from edgegpt.runtime.server.request_log import LOGGER, JsonLines

    logger, handler = logging.getLogger(LOGGER), logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(LOG_LINE))
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:  # a program that runs the command inside itself closes its stderr
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _tell(service: Any, place: Any, listening: Any, as_json: bool) -> None:
    """Say where it listens, and what it keeps ready."""
    port, scheme = listening.getsockname()[1], "https" if place.certificate else "http"
    host = f"[{place.host}]" if ":" in place.host else place.host
    facts = {
        "model": service.name,
        "url": f"{scheme}://{host}:{port}/v1",
        "rows": service.scheduler.rows,
        "context": service.model.context,
        "queue": service.scheduler.queue,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    texts = f"{quantity(facts['rows'], 'text')} of {quantity(facts['context'], 'token')}"
    click.echo(f"{facts['model']} at {facts['url']}: {texts} at a time, {facts['queue']} may wait")
