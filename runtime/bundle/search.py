"""What a model's source says about the search for its best text: beams, lengths, forced ids."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..errors import BundleError
from .fields import kind_of, only, take, whole

__all__ = ["LARGEST_LENGTH_PENALTY", "MOST_BEAMS", "EarlyStopping", "Search"]

EarlyStopping = bool | Literal["never"]

MOST_BEAMS = 1024
# A million tokens to this power are still far within the range of float64.
LARGEST_LENGTH_PENALTY = 32.0
MOST_WORDS, LONGEST_WORD = 4096, 64  # forbidden sequences, and ids in one


@dataclass(frozen=True)
class Search:
    """Settings of the search, such as the source recommends; None where it says nothing.

    Attributes:
        num_beams: texts that are followed side by side; 1 is greedy.
        length_penalty: power of the number of new tokens by which the score of a text is divided.
        early_stopping: whether to stop as soon as there are `num_beams` finished texts (True), when
            a better one is unlikely (False), or when there can be none ("never").
        no_repeat_ngram_size: no sequence of so many ids occurs twice; 0: any may.
        min_new_tokens: an end id comes after so many new tokens at the earliest.
        max_new_tokens: tokens that are added at most, unless the caller says otherwise.
        forced_bos: the first new token.
        forced_eos: the last new token of a text that reaches its largest length.
        bad_words: sequences of ids that never occur.
    """

    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    max_new_tokens: int | None = None
    forced_bos: int | None = None
    forced_eos: int | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, entry: Any, where: str) -> "Search":
        """Read the settings from the JSON at `where`, each within its range."""
        only(entry, [one.name for one in fields(cls)], where)
        search = cls(
            length_penalty=_penalty(entry["length_penalty"], where),
            early_stopping=_stopping(entry["early_stopping"], where),
            bad_words=_words(entry, where),
            **{name: _count(entry, name, where) for name in COUNTS},
        )
        if search.num_beams is not None and not 1 <= search.num_beams <= MOST_BEAMS:
            raise BundleError(f"{where}: num_beams is {search.num_beams}, not 1 to {MOST_BEAMS}")
        return search

    @property
    def ids(self) -> set[int]:
        """All ids that the settings name."""
        forced = {token for token in (self.forced_bos, self.forced_eos) if token is not None}
        return forced.union(*self.bad_words)

    def told(self) -> dict[str, Any]:
        """Return the settings that say something."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}


COUNTS = (
    "num_beams",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "max_new_tokens",
    "forced_bos",
    "forced_eos",
)


def _count(entry: Any, name: str, where: str) -> int | None:
    value = entry[name]
    return None if value is None else whole(value, f"{where}: {name}")


def _penalty(value: Any, where: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= LARGEST_LENGTH_PENALTY:  # false for NaN
        shown = f"{value!r:.30}" if number else kind_of(value)
        raise BundleError(
            f"{where}: length_penalty is {shown}; it must be a number from "
            f"-{LARGEST_LENGTH_PENALTY:g} to {LARGEST_LENGTH_PENALTY:g}"
        )
    return float(value)


def _stopping(value: Any, where: str) -> EarlyStopping | None:
    if value is None or isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    raise BundleError(
        f"{where}: early_stopping is {kind_of(value)}; it must be true, false or 'never'"
    )


def _words(entry: Any, where: str) -> tuple[tuple[int, ...], ...]:
    place, words = f"{where}: bad_words", take(entry, "bad_words", list, where)
    if len(words) > MOST_WORDS:
        raise BundleError(f"{place} has {len(words)} entries; there may be {MOST_WORDS}")
    for word in words:
        if not isinstance(word, list) or not 1 <= len(word) <= LONGEST_WORD:
            raise BundleError(f"{place}: an entry is {word!r:.40}, not a list of token ids")
    return tuple(tuple(whole(token, place) for token in word) for word in words)
