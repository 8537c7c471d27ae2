"""Normalise characters as a SentencePiece model does, by its table `precompiled_charsmap`.

`tokenizers` reads such a table (`Precompiled`), but applies it right to single characters only: of
"\\r\\n" it makes one space instead of two, and it loses accents that stand apart. The tables in use
are Unicode's NFKC, mostly with some characters more that become spaces or vanish (`nmt_nfkc`); so
the library's NFKC does the work, and what the table says differently of single characters is done
around it. What remains is the order of several accents on one letter, which NFKC sorts.
"""

import re

from tokenizers import Regex, normalizers

from edgegpt.runtime.text.tokenizer import library_failed

from ...errors import CheckpointError

__all__ = ["charsmap_normalizer"]

# Characters that a table may treat in a way of its own. nmt_nfkc and nfkc have 6 or 7, for they are
# of an older Unicode; tables that fold case have two thousand.
MOST = 64
STAND_INS = 0xF0000  # private characters that stand for those while NFKC works
CHARACTERS = (*range(0x1, 0xD800), *range(0xE000, 0x10000))


def charsmap_normalizer(charsmap: bytes) -> normalizers.Normalizer:
    """Return the normaliser of a table.

    Raises:
        CheckpointError: if the table is damaged, or is not NFKC with a few exceptions.
    """
    try:
        table = normalizers.Precompiled(charsmap)
    except BaseException as error:
        if not library_failed(error):
            raise
        raise CheckpointError(f"the precompiled_charsmap cannot be read: {error}") from error
    nfkc = normalizers.NFKC()
    own: dict[str, str] = {}
    for character in map(chr, CHARACTERS):
        target = table.normalize_str(character)
        if target != nfkc.normalize_str(character):
            own[character] = target
    odd = {character: target for character, target in own.items() if target not in ("", " ")}
    if len(odd) > MOST:
        raise CheckpointError(
            f"the tokenizer's precompiled_charsmap changes {len(odd):,} characters otherwise than "
            f"Unicode's NFKC, which is not supported"
        )
    stand_ins = {character: chr(STAND_INS + place) for place, character in enumerate(odd)}
    return normalizers.Sequence(
        [
            *_all_of(own, " "),
            *_all_of(own, ""),
            *(normalizers.Replace(character, stand_ins[character]) for character in odd),
            nfkc,
            *(normalizers.Replace(stand_ins[character], odd[character]) for character in odd),
        ]
    )


def _all_of(own: dict[str, str], target: str) -> list[normalizers.Normalizer]:
    """Return what turns every character of `target` into it."""
    found = "".join(re.escape(character) for character, to in own.items() if to == target)
    return [normalizers.Replace(Regex(f"[{found}]"), target)] if found else []
