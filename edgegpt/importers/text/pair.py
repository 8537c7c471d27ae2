"""Read the text side of an encoder-decoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgegpt.runtime.bundle.usage import SourceUsage, Usage

from ...errors import CheckpointError
from ...model import Seq2SeqConfig
from .embedding import fitted
from .folder import Roles
from .found import Found
from .generation import Generation, read_generation
from .ids import prefix_ids, searched, suffix_ids, within
from .languages import CLASSES, Rule, language_codes, tokenizer_class
from .pair_tokenizers import read_pair
from .special_tokens import read_special_tokens

__all__ = ["text_of_pair"]

BEGINS = ("BartTokenizer",)  # classes that begin a source with BOS


def text_of_pair(folder: Path | None, config: Seq2SeqConfig, settings: dict[str, Any]) -> Found:
    """Return what a Hugging Face folder says about the text of an encoder-decoder.

    Args:
        folder: the folder; None: there are only settings.
        config: our settings of the model.
        settings: the content of config.json, with what the family has where it says nothing.

    Raises:
        CheckpointError: as `text_of_folder`.
    """
    if folder is None:
        return _ids_only(config, settings)
    special, generation = read_special_tokens(folder), read_generation(folder, settings)
    kind = tokenizer_class(special.class_name, settings)
    read = read_pair(folder, special, kind)
    rows, source_rows = config.decoder.vocab_size, config.encoder.vocab_size
    if isinstance(read.target, str):
        roles = Roles(special)
        usage, notes = _usage(generation, roles, SourceUsage(), rows)
        return Found(None, usage, None, (read.target, *notes))
    fit = fitted(read.target.text, rows, read.target.where)
    roles = Roles(special, fit.tokenizer, read.target)
    own = fit if read.source is None else fitted(read.source.text, source_rows, read.source.where)
    source = _around(own.tokenizer, Roles(special, own.tokenizer, read.source or read.target), kind)
    usage, notes = _usage(generation, roles, source, rows)
    _check_rows(source, source_rows)
    more = () if read.source is None else own.notes
    return Found(
        fit.text,
        usage,
        None,
        (*read.notes, *fit.notes, *more, *notes),
        None if read.source is None else own.text,
    )


def _usage(
    generation: Generation, roles: Roles, source: SourceUsage, rows: int
) -> tuple[Usage, tuple[str, ...]]:
    """Return how the model is used, and notes on ids that it has no row for."""
    begin = generation.ids("decoder_start_token_id") or generation.ids("bos_token_id")
    start, notes = within(begin[:1], rows, "start")
    if not begin:
        notes = ("nothing says what id a target begins with (decoder_start_token_id)",)
    end, end_notes = within(generation.ids("eos_token_id") or roles.ids("eos_token"), rows, "end")
    pad, pad_notes = within(generation.ids("pad_token_id") or roles.ids("pad_token"), rows, "pad")
    search, search_notes = searched(generation.search(starts=1), rows)
    usage = Usage(
        start_ids=start,
        end_ids=end,
        pad_id=pad[0] if pad else None,
        sampling=generation.sampling(),
        special_tokens=roles.texts,
        search=search,
        source=source,
    )
    others = generation.notes(pair=True)
    return usage, (*notes, *end_notes, *pad_notes, *search_notes, *others)


def _around(tokenizer: Tokenizer, roles: Roles, kind: str | None) -> SourceUsage:
    """Return what stands around a source: by its language, or by the tokenizer's post-processor.

    A class that knows languages does not heed the post-processor in its file.
    """
    end, rule = roles.ids("eos_token"), CLASSES.get(kind or "")
    if rule is not None:
        return _by_language(rule, roles, tokenizer, end)
    prefix, suffix = prefix_ids(tokenizer), suffix_ids(tokenizer)
    if prefix is None and suffix is None:
        return SourceUsage(roles.ids("bos_token") if kind in BEGINS else (), end)
    return SourceUsage(prefix or (), suffix or ())


def _by_language(
    rule: Rule, roles: Roles, tokenizer: Tokenizer, end: tuple[int, ...]
) -> SourceUsage:
    special = tokenizer.get_added_tokens_decoder()
    languages = language_codes(rule, {token.content: number for number, token in special.items()})
    code = _code(roles.config, rule)
    if code is not None and not languages:
        raise CheckpointError(
            "the tokenizer names no languages, which its sources begin with: save it with the "
            "transformers library, so that tokenizer.json has them"
        )
    if code is not None and code not in languages:
        raise CheckpointError(f"src_lang is {code[:40]!r}, which is no language of the tokenizer")
    own = () if code is None else (languages[code],)
    before = rule.before and roles.config.get("legacy_behaviour") is not True
    return SourceUsage(own if before else (), end if before else (*end, *own), languages)


def _code(config: Mapping[str, Any], rule: Rule) -> str | None:
    """Return the code of the language that sources are in, unless the user says another."""
    named = config.get("src_lang")
    if named is not None and not isinstance(named, str):
        raise CheckpointError(f"src_lang is {named!r:.40}, which is no language")
    code = named or rule.usual
    return code.strip("_") if code is not None else None


def _check_rows(source: SourceUsage, rows: int) -> None:
    for number in (*source.prefix_ids, *source.suffix_ids):
        if number >= rows:
            raise CheckpointError(
                f"a source has the id {number} around it, but the embedding has {rows:,} rows"
            )


def _ids_only(config: Seq2SeqConfig, settings: dict[str, Any]) -> Found:
    """Return the use of a model that has no texts: its sources are between the same two ids."""
    generation = Generation({}, settings, "settings")
    roles = {name: generation.ids(f"{name}_token_id") for name in ("decoder_start", "eos", "pad")}
    rows = min(config.encoder.vocab_size, config.decoder.vocab_size)
    for name, ids in roles.items():
        if ids and ids[0] >= rows:
            raise CheckpointError(f"the {name} id is {ids[0]}, but there are {rows:,} ids")
    start, end, pad = roles["decoder_start"], roles["eos"], roles["pad"]
    usage = Usage(start, end, pad[0] if pad else None, source=SourceUsage(start, end))
    note = "the file has no tokenizer: the model works with token ids only"
    return Found(None, usage, None, (note,))
