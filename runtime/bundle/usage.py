"""What a model's source says about its use: what begins a prompt, ends a text, how to sample."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import BundleError
from .fields import LARGEST, finite, kind_of, only, take, text, whole
from .search import Search

__all__ = ["LONGEST_CODE", "RANGES", "Defaults", "SourceUsage", "Usage"]

# What each setting of sampling must be, in words and as a condition on a finite number.
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("0 or more", lambda value: value >= 0),
    "top_p": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "min_p": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "repetition_penalty": ("above 0", lambda value: value > 0),
}
MOST_IDS = 256  # to begin a prompt, or to end a text
TOKEN_NAME = re.compile(r"[a-z][a-z_]{0,40}_token")
LONGEST_TOKEN = 200  # characters
MOST_LANGUAGES = 1024
LONGEST_CODE = 40  # characters of a language's code


@dataclass(frozen=True)
class Defaults:
    """Settings of sampling, such as the source recommends; None where it says nothing.

    `edgegpt.runtime.generation.sampling.Sampling` tells what they mean.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def of(cls, entry: Any, where: str) -> "Defaults":
        """Read the settings from the JSON at `where`, each within its range."""
        only(entry, [one.name for one in fields(cls)], where)
        top_k = entry["top_k"]
        return cls(
            top_k=None if top_k is None else whole(top_k, f"{where}: top_k"),
            **{name: _number(entry[name], f"{where}: {name}", *RANGES[name]) for name in RANGES},
        )

    def told(self) -> dict[str, Any]:
        """Return the settings that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SourceUsage:
    """How an encoder-decoder wants the text that it reads.

    Attributes:
        prefix_ids: ids that a source of text begins with.
        suffix_ids: ids that it ends with.
        languages: ids of languages by their codes. Such an id in the prefix or the suffix tells the
            language of the source, unless the caller names another one; as the first new token it
            tells that of the target.
    """

    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    languages: dict[str, int] = field(default_factory=dict)

    def around(self, ids: list[int], language: int | None = None) -> list[int]:
        """Return the ids of a text as those of a source.

        The id of a `language` comes in place of the one that is there, or, without one, last.
        """
        prefix, suffix = list(self.prefix_ids), list(self.suffix_ids)
        if language is not None:
            own = set(self.languages.values())
            if own.isdisjoint([*prefix, *suffix]):
                suffix.append(language)
            prefix = [language if token in own else token for token in prefix]
            suffix = [language if token in own else token for token in suffix]
        return [*prefix, *ids, *suffix]

    @classmethod
    def of(cls, entry: Any, where: str) -> "SourceUsage":
        """Read and check the JSON that `dataclasses.asdict` gives; `where` is its place."""
        only(entry, [one.name for one in fields(cls)], where)
        languages = take(entry, "languages", dict, where)
        if len(languages) > MOST_LANGUAGES:
            raise BundleError(f"{where} has {len(languages)} languages, more than {MOST_LANGUAGES}")
        for code in languages:
            if not code or len(code) > LONGEST_CODE:
                raise BundleError(f"{where}: languages has the code {code[:40]!r}")
        return cls(
            prefix_ids=_ids(entry, "prefix_ids", where),
            suffix_ids=_ids(entry, "suffix_ids", where),
            languages={
                code: whole(token, f"{where}: languages") for code, token in languages.items()
            },
        )


@dataclass(frozen=True)
class Usage:
    """How the source wants its model to be used; without any of it, the model runs too.

    Attributes:
        start_ids: ids that a plain text prompt begins with (BOS).
        end_ids: ids that end a text (EOS).
        pad_id: id that fills up rows in training; nothing here needs it.
        sampling: the settings to use unless the caller says otherwise.
        special_tokens: texts of tokens by the names that a chat template knows them by, such as
            {"bos_token": "<s>"}. They do not follow from the ids: a template may begin a chat with
            a BOS that plain prompts do not have.
        search: settings of the search for the best text.
        source: of an encoder-decoder, what its sources look like. Its `start_ids` are what the
            decoder begins with.
    """

    start_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    sampling: Defaults = Defaults()
    special_tokens: dict[str, str] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    source: SourceUsage | None = None

    @classmethod
    def of(
        cls,
        entry: Any,
        where: str,
        vocab_size: int = LARGEST,
        source_vocab_size: int = LARGEST,
    ) -> "Usage":
        """Read and check the JSON that `dataclasses.asdict` gives; `where` is its place.

        Raises:
            BundleError: for a value that is missing, unknown, of the wrong type or out of range,
                as an id that is not below `vocab_size`, or, of sources, `source_vocab_size`.
        """
        if isinstance(entry, dict):  # checkpoints of before these two have none
            entry = {"search": asdict(Search()) | {"bad_words": []}, "source": None, **entry}
        only(entry, [one.name for one in fields(cls)], where)
        source = entry["source"]
        usage = cls(
            start_ids=_ids(entry, "start_ids", where),
            end_ids=_ids(entry, "end_ids", where),
            pad_id=None if entry["pad_id"] is None else whole(entry["pad_id"], f"{where}: pad_id"),
            sampling=Defaults.of(entry["sampling"], f"{where}: sampling"),
            special_tokens=_tokens(entry, where),
            search=Search.of(entry["search"], f"{where}: search"),
            source=None if source is None else SourceUsage.of(source, f"{where}: source"),
        )
        padding = () if usage.pad_id is None else (usage.pad_id,)
        _within((*usage.start_ids, *usage.end_ids, *padding, *usage.search.ids), vocab_size, where)
        if usage.source is not None:
            _within((*usage.source.prefix_ids, *usage.source.suffix_ids), source_vocab_size, where)
            _within(tuple(usage.source.languages.values()), vocab_size, where)
        return usage


def _within(ids: tuple[int, ...], vocab_size: int, where: str) -> None:
    for token in ids:
        if token >= vocab_size:
            raise BundleError(
                f"{where} names the id {token}, which is not in the vocabulary of {vocab_size}"
            )


def _ids(entry: Any, key: str, where: str) -> tuple[int, ...]:
    ids = take(entry, key, list, where)
    if len(ids) > MOST_IDS:
        raise BundleError(f"{where}: {key} has {len(ids)} ids; there may be {MOST_IDS}")
    return tuple(whole(token, f"{where}: {key}") for token in ids)


def _number(value: Any, where: str, expected: str, holds: Callable[[float], bool]) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BundleError(f"{where} is {kind_of(value)}; it must be a number {expected}")
    if not finite(value) or not holds(value):
        raise BundleError(f"{where} is {value!r:.30}; it must be a number {expected}")
    return value


def _tokens(entry: Any, where: str) -> dict[str, str]:
    tokens = take(entry, "special_tokens", dict, where)
    place = f"{where}: special_tokens"
    for name, token in tokens.items():
        if not TOKEN_NAME.fullmatch(name):
            raise BundleError(f"{place} has the name {name[:40]!r}, which is not like bos_token")
        if len(text(token, f"{place}: {name}")) > LONGEST_TOKEN:
            raise BundleError(f"{place}: {name} is longer than {LONGEST_TOKEN} characters")
    return tokens
