"""Prompt lookup: guess the next tokens from the text so far, and check several in one step.

Where the last tokens occurred before, the ones that followed them then are drafted (Saxena 2023,
"Prompt lookup decoding"; the idea of checking drafts in one step is Leviathan et al. 2022). A step
over a few tokens reads each weight once, so on a large model it takes little longer than a step
over one. The model's own choice decides every token, so the text is that of plain decoding; drafts
that were wrong leave cache slots behind that the next step overwrites.

Whether a step over several tokens pays depends on the model, the machine and the text: both kinds
of steps are timed, and drafting pauses, each time for longer, while it would be the slower one.
"""

from collections.abc import Sequence

__all__ = ["MAX_DRAFT", "Drafts", "Pace"]

MAX_DRAFT = 15  # with the token before it, as many as the engines take for a short step

LONGEST_MATCH, SHORTEST_MATCH = 4, 2  # tokens at the end of the text that must have occurred before
TRIES = 3  # drafted steps before they are judged
FIRST_PAUSE = 48  # plain steps without drafts after the first bad judgement; doubles each time


class Drafts:
    """Finds earlier occurrences of the end of a growing text."""

    def __init__(self) -> None:
        self.seen = 0  # how many tokens were indexed
        # What followed each run of tokens when it occurred last, as the index of the follower.
        self.followers: dict[tuple[int, ...], int] = {}

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow `ids`, which only ever grows."""
        for end in range(max(self.seen, SHORTEST_MATCH), len(ids)):
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, end) + 1):
                self.followers[tuple(ids[end - length : end])] = end
        self.seen = len(ids)
        for length in range(min(LONGEST_MATCH, len(ids) - 1), SHORTEST_MATCH - 1, -1):
            start = self.followers.get(tuple(ids[-length:]))
            if start is not None:
                draft = list(ids[start : start + count])
                # A draft that reaches the end of the text goes on with its own beginning.
                period = len(ids) - start
                return [draft[place % period] for place in range(count)]
        return []


class Pace:
    """Says whether drafting pays, from the time that both kinds of steps took per token.

    One is kept for all texts of a model, so that what one text found out spares the next the try.
    """

    def __init__(self) -> None:
        self.pause, self.next_pause = 0, FIRST_PAUSE
        self.drafted_steps = -1  # the first one sets buffers up: it is not judged
        self.plain = _Mean()
        self.drafted = _Mean()

    def wants_drafts(self) -> bool:
        """Return whether the next step should be drafted, if there is a draft."""
        if self.plain.count == 0:
            return False  # there is nothing to compare with yet
        if self.pause > 0:
            self.pause -= 1
            return False
        return True

    def note(self, seconds: float, tokens: int, was_drafted: bool) -> None:
        """Take note of a step that took `seconds` and gave `tokens`."""
        self.drafted_steps += was_drafted
        if not was_drafted:
            self.plain.add(seconds, tokens)
        elif self.drafted_steps > 0:
            self.drafted.add(seconds, tokens)
        if self.drafted_steps < TRIES:
            return
        if self.drafted.per_token() > self.plain.per_token():
            self.pause, self.next_pause = self.next_pause, 2 * self.next_pause
        else:
            self.next_pause = FIRST_PAUSE
        self.drafted_steps = 0
        self.drafted = _Mean()


class _Mean:
    def __init__(self) -> None:
        self.seconds, self.tokens, self.count = 0.0, 0, 0

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds += seconds
        self.tokens += tokens
        self.count += 1

    def per_token(self) -> float:
        return self.seconds / max(self.tokens, 1)
