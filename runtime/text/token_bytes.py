"""The bytes that each token of a vocabulary writes, for grammars, which work on bytes."""

import json
import re
from typing import Any

from .tokenizer import Tokenizer

__all__ = ["token_bytes"]

BYTE_NAME = re.compile(r"<0x([0-9A-Fa-f]{2})>")
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that name themselves


def token_bytes(tokenizer: Tokenizer, count: int) -> list[bytes]:
    """Return the bytes of the ids below `count`; none for special tokens and ids without a text.

    Names are turned into bytes by what the tokenizer's decoder does: GPT-2's alphabet of bytes
    (ByteLevel), `<0x0A>` (ByteFallback), and the sign for a space (Metaspace, Replace).
    """
    kinds, space = _decoders(json.loads(tokenizer.backend.to_str())["decoder"])
    alphabet = _alphabet() if "ByteLevel" in kinds else {}
    added = tokenizer.backend.get_added_tokens_decoder()
    found = []
    for number in range(count):
        name = tokenizer.backend.id_to_token(number)
        byte = BYTE_NAME.fullmatch(name or "") if "ByteFallback" in kinds else None
        if name is None or number in tokenizer.special_ids:
            found.append(b"")
        elif number in added:
            found.append(name.encode())
        elif byte:
            found.append(bytes([int(byte[1], 16)]))
        elif alphabet:
            found.append(bytes(alphabet[letter] for letter in name if letter in alphabet))
        else:
            found.append((name.replace(space, " ") if space else name).encode())
    return found


def _decoders(entry: Any) -> tuple[set[str], str]:
    """Return the kinds of decoders within one, and the sign that they turn into a space."""
    if entry is None:
        return set(), ""
    kinds, space = {entry["type"]}, ""
    if entry["type"] == "Metaspace":
        space = entry.get("replacement", "")
    if entry["type"] == "Replace" and entry.get("content") == " ":
        space = entry["pattern"].get("String", "")
    for inner in entry.get("decoders", ()):
        more, sign = _decoders(inner)
        kinds, space = kinds | more, space or sign
    return kinds, space


def _alphabet() -> dict[str, int]:
    """Return GPT-2's letters for bytes (its `bytes_to_unicode`)."""
    others = (byte for byte in range(256) if byte not in PRINTABLE)
    own = {chr(byte): byte for byte in PRINTABLE}
    return own | {chr(256 + number): byte for number, byte in enumerate(others)}
