"""Prompt lookup: guess the next tokens from the text so far, and check several in one step.

If the last tokens occurred before, the tokens that followed them there are drafted (Saxena 2023,
"Prompt lookup decoding"; the idea of checking drafts in one step is Leviathan et al. 2022). A step
over a few tokens reads each weight once, so on a large model it takes little longer than a step
over one. The model itself chooses every token, so the text is that of plain decoding. Wrong drafts
leave cache slots behind that the next step overwrites.

Whether a step over several tokens pays off depends on the model, the machine and the text. Both
kinds of steps are timed. If drafting is slower, it pauses, each time for longer.
"""

from collections.abc import Sequence

__all__ = ["MAX_DRAFT", "Drafts", "Pace"]

MAX_DRAFT = 15  # with the token before them, the most that the engines treat as a short step

LONGEST_MATCH, SHORTEST_MATCH = 4, 2  # tokens at the end of the text that must have occurred before
TRIES = 3  # drafted steps before they are judged
FIRST_PAUSE = 48  # plain steps without drafts after the first bad judgement; doubles each time


class Drafts:
    """Finds earlier occurrences of the end of a growing text."""

    def __init__(self) -> None:
        self.seen = 0  # how many tokens were indexed
        # For each run of tokens, the index of the token that followed its last occurrence.
        self.followers: dict[tuple[int, ...], int] = {}

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow `ids`, which may only grow between calls."""
        for end in range(max(self.seen, SHORTEST_MATCH), len(ids)):
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, end) + 1):
                self.followers[tuple(ids[end - length : end])] = end
        self.seen = len(ids)
        for length in range(min(LONGEST_MATCH, len(ids) - 1), SHORTEST_MATCH - 1, -1):
            start = self.followers.get(tuple(ids[-length:]))
            if start is not None:
                draft = list(ids[start : start + count])
                # A draft that reaches the end of the text continues from its own beginning.
                period = len(ids) - start
                return [draft[place % period] for place in range(count)]
        return []


class Pace:
    """Decides whether drafting pays off, from the time per token of both kinds of steps.

    All texts of a model share one, so that a text can use the timings of earlier texts.
    """

    def __init__(self) -> None:
        self.pause, self.next_pause = 0, FIRST_PAUSE
        self.drafted_steps = -1  # the first drafted step sets up buffers, so it is not judged
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
        """Record a step that took `seconds` and gave `tokens`."""
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
