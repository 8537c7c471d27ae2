"""What a model thinks before it answers, apart from the answer.

Models that think write so between `<think>` and `</think>`, before their answer. Some templates
write the first of the two themselves, at the end of the prompt.
"""

from collections.abc import Iterable, Iterator

__all__ = ["CLOSE", "MOST_SPACE", "OPEN", "Thoughts", "apart", "certain"]

OPEN, CLOSE = "<think>", "</think>"
MOST_SPACE = 256  # characters of white space that wait for what follows


class Thoughts:
    """Parts a text that comes in pieces. Thoughts, and the answer after them, are stripped.

    A text that does not begin with thoughts is an answer, to the letter.
    """

    def __init__(self, *, begun: bool = False) -> None:
        """Begin; `begun`: the prompt ends within thoughts."""
        self._held = ""
        self._push = self._inside if begun else self._before
        self._bare = True  # there is no thought yet but white space

    def push(self, piece: str) -> tuple[str, str]:
        """Take a piece; return what is now certain of the thoughts, and of the answer."""
        self._held += piece
        return self._push()

    def finish(self) -> tuple[str, str]:
        """Return the rest, which was held back for a mark that did not come."""
        held, self._held = self._held, ""
        return (held.rstrip(), "") if self._push == self._inside else ("", self._last(held))

    def _last(self, held: str) -> str:
        return "" if self._push == self._gap else held

    def _before(self) -> tuple[str, str]:
        bare = self._held.lstrip()
        if bare.startswith(OPEN):
            self._held, self._push = bare[len(OPEN) :], self._inside
            return self._push()
        if OPEN.startswith(bare) and len(self._held) <= MOST_SPACE:
            return "", ""
        self._push = self._after
        return self._push()

    def _inside(self) -> tuple[str, str]:
        if self._bare:
            self._held = self._held.lstrip()
            self._bare = not self._held
        thought, mark, rest = self._held.partition(CLOSE)
        if mark:
            self._held, self._push = rest, self._gap
            return thought.rstrip(), self._push()[1]
        kept = certain(thought, CLOSE)
        self._held = thought[kept:]
        return thought[:kept], ""

    def _gap(self) -> tuple[str, str]:
        self._held = self._held.lstrip()
        if self._held:
            self._push = self._after
        return self._push() if self._held else ("", "")

    def _after(self) -> tuple[str, str]:
        answer, self._held = self._held, ""
        return "", answer


def apart(pieces: Iterable[str], thoughts: Thoughts | None) -> Iterator[tuple[bool, str]]:
    """Yield the pieces of a text, each with whether it is thought; None: nothing is."""
    for piece in pieces:
        yield from _told("", piece) if thoughts is None else _told(*thoughts.push(piece))
    if thoughts is not None:
        yield from _told(*thoughts.finish())


def certain(text: str, mark: str) -> int:
    """Return how many characters of `text` are before what may be white space and a `mark`."""
    longest = min(len(text), len(mark) - 1)
    begun = next((size for size in range(longest, 0, -1) if mark.startswith(text[-size:])), 0)
    end = len(text) - begun
    return max(len(text[:end].rstrip()), end - MOST_SPACE)


def _told(thought: str, answer: str) -> Iterator[tuple[bool, str]]:
    if thought:
        yield True, thought
    if answer:
        yield False, answer
