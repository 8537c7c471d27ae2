"""Imports what a user names, a path or a Hub id, into a checkpoint folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from edgegpt.runtime.bundle.bundle import CARD_NAME, LICENSE_NAME, TEMPLATE_NAME, TOKENIZER_NAME
from edgegpt.runtime.bundle.source import Source as Origin
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.files import write_file
from edgegpt.runtime.progress import Progress, silent

from ..checkpoint import is_checkpoint
from ..errors import CheckpointError
from .adapter import adapted
from .hub.ids import HubId, is_hub_id
from .huggingface import open_folder
from .lesson import AttentionScale
from .open import open_source
from .papers import Papers, papers_of
from .run import Import, look, write
from .source import Source
from .text.folder import text_of_folder
from .text.found import Found
from .text.gguf_fields import text_of_gguf

__all__ = ["Named", "as_checkpoint", "import_into", "opened"]


@dataclass(frozen=True)
class Named:
    """What a user names to be imported.

    Attributes:
        source: a path, or a Hub id.
        revision: branch, tag or commit of a Hub id; None: its default branch.
        adapter: folder of a LoRA adapter to merge; None: none.
        n_head: heads of a bare state dict of nanoGPT, which does not tell.
        attention_scale: see `lesson.open_lesson`.
    """

    source: str
    revision: str | None = None
    adapter: Path | None = None
    n_head: int | None = None
    attention_scale: AttentionScale = "head_dim"


def opened(named: Named, *, values: bool = True, progress: Progress = silent) -> Source:
    """Return the source that is meant; without `values`, a Hub id's weights are not downloaded.

    Raises:
        CheckpointError: if there is no such source, or it cannot be read.
    """
    if is_hub_id(named.source):
        source = _from_hub(HubId.of(named.source), named.revision, values, progress)
    elif named.revision is not None:
        raise CheckpointError(f"{named.source} is no Hub id, so that it has no --revision")
    elif is_checkpoint(Path(named.source)):
        raise CheckpointError(f"{named.source} is a checkpoint of edgegpt already; export it")
    else:
        source = open_source(Path(named.source), named.n_head, named.attention_scale)
    return source if named.adapter is None else adapted(source, named.adapter)


def import_into(named: Named, folder: Path, progress: Progress = silent) -> Import:
    """Write the checkpoint that is meant into the existing `folder`; return what was imported.

    Its notes say what was left out or limited.

    Raises:
        CheckpointError: names what cannot be imported; `folder` may then hold a part.
    """
    source = opened(named, progress=progress)
    found = look(source)
    text, papers = text_of(source, found.config.vocab_size), papers_of(source)
    write(found, folder, text.usage, facts_of(found, papers), progress)
    for name, content in {
        TOKENIZER_NAME: text.tokenizer_json,
        TEMPLATE_NAME: text.chat_template,
        LICENSE_NAME: papers.license_text,
        CARD_NAME: papers.card,
    }.items():
        if content is not None:
            write_file(folder / name, content.encode())
    return replace(found, notes=[*found.notes, *text.notes, *papers.notes])


def text_of(source: Source, vocab_size: int) -> Found:
    """Return what a source says about text."""
    if source.folder is not None:
        return text_of_folder(source.folder, vocab_size, source.settings)
    if source.fields is not None:
        return text_of_gguf(source.fields, vocab_size)
    note = "the file has no tokenizer: the model works with token ids only"
    return Found(None, Usage(), None, (note,))


def facts_of(found: Import, papers: Papers) -> Origin:
    """Return where the model comes from, as its bundle will say."""
    return Origin(found.family.model_type, found.source.name, papers.license)


def _from_hub(hub_id: HubId, revision: str | None, values: bool, progress: Progress) -> Source:
    try:
        from .hub.download import download  # noqa: PLC0415 - the extra `hub` may be missing
        from .hub.headers import open_headers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{hub_id} is on the Hub, which needs another package: pip install "
            f'"edgegpt-toolkit[hub]"; or name a local folder'
        ) from error
    if not values:
        return open_headers(hub_id, revision, progress)
    path = download(hub_id, revision, progress=progress)
    name = hub_id.with_commit(path)
    return open_folder(path, name) if path.is_dir() else replace(open_source(path), name=name)


@contextmanager
def as_checkpoint(named: Named, out: Path, progress: Progress) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with the checkpoint that is meant, and notes on its import.

    A folder that is a checkpoint already is yielded as it is. Anything else is imported into a
    temporary folder beside `out`.

    Raises:
        CheckpointError: names what cannot be imported.
    """
    if is_checkpoint(Path(named.source)):
        if named.revision is not None or named.adapter is not None:
            raise CheckpointError(
                f"{named.source} is a checkpoint of edgegpt; a revision or an adapter is for "
                f"models that are imported"
            )
        yield Path(named.source), []
        return
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent, prefix=f".{out.name}.import-") as folder:
        found = import_into(named, Path(folder), progress)
        yield Path(folder), found.notes
