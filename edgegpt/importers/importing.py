"""Imports what a user names, a path or a Hub id, into a checkpoint folder."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgegpt.runtime.bundle.bundle import (
    CARD_NAME,
    LICENSE_NAME,
    SOURCE_TOKENIZER_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
)
from edgegpt.runtime.bundle.source import Source as Origin
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.files import check_room, folder_beside, write_file
from edgegpt.runtime.packages import pip_install
from edgegpt.runtime.progress import Progress, silent

from ..checkpoint import is_checkpoint
from ..errors import CheckpointError
from ..model import GPTConfig, Seq2SeqConfig
from ..user_files import read_json
from .adapter import adapted
from .attention_scale import with_measured_scale
from .hub.ids import HubId, is_hub_id, nothing_at
from .huggingface import open_folder
from .lesson import AttentionScale
from .open import open_source
from .papers import Papers, papers_of
from .run import Import, config_of, look, write
from .source import Source
from .tensors import SafeTensors
from .text.embedding import fitted
from .text.folder import text_of_folder
from .text.found import Found
from .text.gguf_fields import text_of_gguf
from .text.pair import text_of_pair
from .text.try_template import template_notes
from .text_only import language_model

__all__ = ["Named", "Survey", "as_checkpoint", "opened", "survey", "write_checkpoint"]

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Named:
    """What a user names to be imported.

    Attributes:
        source: a path, or a Hub id.
        revision: branch, tag or commit of a Hub id; None: its default branch.
        adapter: folder of a LoRA adapter to merge; None: none.
        n_head: heads of a bare state dict of nanoGPT, which does not tell.
        attention_scale: see `lesson.open_lesson`.
        data: a text on which the scale of the lesson is measured.
        shape: a TOML file with what an encoder-decoder's state dict does not say.
        context: tokens that the model has to see, in an export of it; None: any number.
        text_only: whether only the language model of a model that reads more than text is meant.
    """

    source: str
    revision: str | None = None
    adapter: Path | None = None
    n_head: int | None = None
    attention_scale: AttentionScale | None = None
    shape: Path | None = None
    data: Path | None = None
    context: int | None = None
    text_only: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty name, which would be the current folder, and a contradiction."""
        if not self.source:
            raise CheckpointError("the source is empty: name a folder, a file, or owner/model")
        if self.data is not None and self.attention_scale is not None:
            raise CheckpointError("--data measures the scale of attention; leave the other one out")


def opened(named: Named, *, values: bool = True, progress: Progress = silent) -> Source:
    """Return the source that is meant; without `values`, a Hub id's weights are not downloaded.

    Raises:
        CheckpointError: if there is no such source, or it cannot be read.
    """
    if is_hub_id(named.source):
        source = _from_hub(HubId.of(named.source), named, values, progress)
    elif not os.path.lexists(named.source):
        raise CheckpointError(nothing_at(named.source))
    elif named.revision is not None:
        raise CheckpointError(f"{named.source} is no Hub id, so that it has no --revision")
    elif is_checkpoint(Path(named.source)):
        raise CheckpointError(f"{named.source} is a checkpoint of edgegpt already; export it")
    else:
        scale = "head_dim" if named.data is not None and values else named.attention_scale
        source = open_source(Path(named.source), named.n_head, scale, named.shape)
    source = language_model(source) if named.text_only else source
    return source if named.adapter is None else adapted(source, named.adapter)


@dataclass(frozen=True)
class Survey:
    """A source of which everything was looked at but the values of its weights.

    Attributes:
        model: the model and its tensors.
        text: tokenizer, use and chat template.
        papers: licence and model card.
    """

    model: Import
    text: Found
    papers: Papers

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what import leaves out or limits."""
        return (*self.model.notes, *self.text.notes, *self.papers.notes)


def survey(named: Named, *, values: bool = True, progress: Progress = silent) -> Survey:
    """Look at the source that is meant; its weights, see `opened`, are not read.

    Raises:
        CheckpointError: names what cannot be imported.
        InvalidInputError: if the model does not see as many tokens as it has to.
    """
    source = opened(named, values=values, progress=progress)
    model = look(source)
    _check_context(model.config, named.context)
    text = text_of(source, model.config, model.family.generation)
    if named.data is not None and values:
        model = with_measured_scale(model, text.tokenizer_json, named.data)
    notes = (*text.notes, *template_notes(text.chat_template, text.usage.special_tokens))
    return Survey(model, replace(text, notes=notes), papers_of(source))


def write_checkpoint(found: Survey, folder: Path, progress: Progress = silent) -> None:
    """Write the checkpoint of a source into the existing `folder`.

    Raises:
        CheckpointError: names the values that cannot be imported; `folder` may then hold a part.
    """
    text, papers = found.text, found.papers
    write(found.model, folder, text.usage, facts_of(found.model, papers), progress)
    for name, content in {
        TOKENIZER_NAME: text.tokenizer_json,
        SOURCE_TOKENIZER_NAME: text.source_tokenizer_json,
        TEMPLATE_NAME: text.chat_template,
        LICENSE_NAME: papers.license_text,
        CARD_NAME: papers.card,
    }.items():
        if content is not None:
            write_file(folder / name, content.encode())


def text_of(
    source: Source, config: GPTConfig | Seq2SeqConfig, usual: Mapping[str, Any] = EMPTY
) -> Found:
    """Return what a source says about text; an error names the folder, or the file.

    `usual` has settings of generation that the family has where the source says nothing.
    """
    place = source.where if source.folder is None else str(source.folder)
    settings = {**usual, **source.settings}
    try:
        if isinstance(config, Seq2SeqConfig):
            return text_of_pair(source.folder, config, settings)
        if source.folder is not None:
            return text_of_folder(source.folder, config.vocab_size, settings)
        if source.fields is not None:
            return text_of_gguf(source.fields, config.vocab_size)
    except CheckpointError as error:
        if place in str(error):
            raise
        raise CheckpointError(f"{place}: {error}") from error
    if source.tokenizer_json is not None:
        return Found(fitted(source.tokenizer_json, config.vocab_size, place).text, Usage(), None)
    note = "the file has no tokenizer: the model works with token ids only"
    return Found(None, Usage(), None, (note,))


def facts_of(found: Import, papers: Papers) -> Origin:
    """Return where the model comes from, as its bundle will say."""
    return Origin(found.family.model_type, found.source.name, papers.license)


def _from_hub(hub_id: HubId, named: Named, values: bool, progress: Progress) -> Source:
    try:
        from .hub.download import download  # noqa: PLC0415 - the extra `hub` may be missing
        from .hub.headers import open_headers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{hub_id} is on the Hub, which needs another package: {pip_install('hub')}; or name "
            f"a local folder"
        ) from error
    revision = named.revision
    if not values:
        return open_headers(hub_id, revision, progress)
    if hub_id.file is None:
        folder = download(hub_id, revision, weights=False, progress=progress)
        _check_small_files(folder, named)
    path = download(hub_id, revision, progress=progress)
    name = hub_id.with_commit(path)
    return open_folder(path, name) if path.is_dir() else replace(open_source(path), name=name)


def _check_small_files(folder: Path, named: Named) -> None:
    """Refuse settings or a tokenizer that cannot be imported before the weights are downloaded."""
    path = folder / "config.json"
    source = Source(folder.name, read_json(path), str(path), SafeTensors([]), folder)
    source = language_model(source) if named.text_only else source
    config = config_of(source)
    _check_context(config, named.context)
    text_of(source, config)


def _check_context(config: GPTConfig | Seq2SeqConfig, context: int | None) -> None:
    if context is not None:
        config.limited(context)


@contextmanager
def as_checkpoint(named: Named, out: Path, progress: Progress) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with the checkpoint that is meant, and notes on its import.

    A folder that is a checkpoint already is yielded as it is. Anything else is imported into a
    temporary folder beside `out`.

    Raises:
        CheckpointError: names what cannot be imported.
        InvalidInputError: if a model to import does not see as many tokens as it has to.
    """
    if is_checkpoint(Path(named.source)):
        if named.revision is not None or named.adapter is not None or named.text_only:
            raise CheckpointError(
                f"{named.source} is a checkpoint of edgegpt; a revision, an adapter or --text-only "
                f"is for models that are imported"
            )
        yield Path(named.source), []
        return
    found = survey(named, progress=progress)
    check_room(out, found.model.size)
    with folder_beside(out.absolute(), "import") as folder:
        write_checkpoint(found, folder, progress)
        yield folder, list(found.notes)
