"""What the files beside a tokenizer say about its special and added tokens.

transformers keeps it in three places: tokenizer_config.json, and, before 2023, in added_tokens.json
and special_tokens_map.json. tokenizer_config.json outranks the others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ...errors import CheckpointError
from ...user_files import read_optional
from .backend import quote

__all__ = ["SpecialTokens", "read_special_tokens"]

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
LONGEST = 200  # characters of a token that a chat template names
LONGEST_ID = 12  # digits
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that a folder names.

    Attributes:
        config: the content of tokenizer_config.json.
        listed: added tokens by id.
        roles: the text of the token of each role, such as "bos_token".
        more: further special tokens, which have no role.
    """

    config: dict[str, Any]
    listed: dict[int, AddedToken]
    roles: dict[str, str]
    more: tuple[str, ...]

    @property
    def class_name(self) -> str | None:
        """Name of the tokenizer's class in transformers, without the ending "Fast", or None."""
        name = self.config.get("tokenizer_class")
        return name.removesuffix("Fast") if isinstance(name, str) else None

    def added(self, vocabulary: Mapping[str, int], usual: tuple[str, ...]) -> dict[int, AddedToken]:
        """Return all tokens that are found in a text as they are, by id.

        A special token that has no id yet gets the next one, as in transformers.

        Args:
            vocabulary: the ids of ordinary tokens.
            usual: special tokens of this kind of tokenizer, if the vocabulary has them.
        """
        added = dict(self.listed)
        known = dict(vocabulary) | {token.content: number for number, token in added.items()}
        free = max(known.values(), default=-1) + 1
        named = [*self.roles.values(), *self.more, *(text for text in usual if text in known)]
        for text in dict.fromkeys(named):
            if text not in known:
                known[text], free = free, free + 1
            if known[text] not in added:
                added[known[text]] = AddedToken(text, special=True, normalized=False)
        return added


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read the files of `folder`; none needs to exist."""
    config = read_optional(folder / "tokenizer_config.json")
    older = read_optional(folder / "special_tokens_map.json")
    where = f"tokenizer_config.json in {folder}"
    roles: dict[str, str] = {}
    for role in ROLES:
        value = config[role] if role in config else older.get(role)
        if value is not None:
            roles[role] = _text(value, f"{where}: {role}")
            if len(roles[role]) > LONGEST:
                raise CheckpointError(f"{where}: {role} has more than {LONGEST} characters")
    more = tuple(
        text for name in LISTS for text in _texts(config.get(name, older.get(name)), where)
    )
    special = {*roles.values(), *more}
    table = config.get("added_tokens_decoder")
    listed = (
        _decoder_table(table, where)
        if table is not None
        else _older_table(folder / "added_tokens.json", special)
    )
    return SpecialTokens(config, listed, roles, more)


def _decoder_table(table: Any, where: str) -> dict[int, AddedToken]:
    """Read added_tokens_decoder: {"32000": {"content": "<|im_start|>", "special": true, ...}}."""
    if not isinstance(table, dict):
        raise CheckpointError(f"{where}: added_tokens_decoder is not a table")
    added = {}
    for key, entry in table.items():
        if not (key.isdecimal() and len(key) <= LONGEST_ID) or not isinstance(entry, dict):
            raise CheckpointError(f"{where}: added_tokens_decoder has the entry {quote(key)}")
        flags = {flag: entry[flag] for flag in FLAGS if isinstance(entry.get(flag), bool)}
        added[int(key)] = AddedToken(_text(entry, where), **flags)
    return added


def _older_table(path: Path, special: set[str]) -> dict[int, AddedToken]:
    """Read added_tokens.json: {"<|im_start|>": 32000}."""
    added = {}
    for text, number in read_optional(path).items():
        if type(number) is not int or number < 0:
            raise CheckpointError(f"{path}: the id of {quote(text)} is {number!r:.40}")
        added[number] = AddedToken(text, special=text in special, normalized=text not in special)
    return added


def _texts(value: Any, where: str) -> Iterator[str]:
    """Yield the tokens of a list, or of a table of names, which newer files write."""
    if value is not None and not isinstance(value, list | dict):
        raise CheckpointError(f"{where} has a list of special tokens that is no list")
    for one in value.values() if isinstance(value, dict) else value or ():
        yield _text(one, where)


def _text(value: Any, where: str) -> str:
    """Return the text of a token: a string, or a table with its content."""
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{where} names a token that is no text")
    return content
