"""A row that keeps its tokens between texts: the next one begins where it becomes different.

A chat is such a series of texts: each turn's prompt is the one before, its answer, and a little.
"""

from collections.abc import Iterator

from ..engines.base import Engine
from ..errors import InvalidInputError
from .limits import Halted
from .loop import Rules
from .rows import Text
from .shared_rows import SharedRows

__all__ = ["KeptRow"]


class KeptRow:
    """One row of an engine. It is for one text at a time.

    Attributes:
        reused: how many tokens of the last prompt were there already.
    """

    def __init__(self, engine: Engine, context: int) -> None:
        """Begin with nothing; the memory is that of a text of `context` tokens."""
        self._engine, self._context = engine, context
        self._rows = self._new_rows()
        self.reused = 0

    def tokens(self, text: Text, rules: Rules) -> Iterator[tuple[int, int]]:
        """Write a text; yield (0, token) for each new token, as `generate_tokens` does.

        Raises:
            InvalidInputError: if another text is still being written.
        """
        if self._rows.busy:
            raise InvalidInputError(
                "this row is writing another text: read its stream to the end, or close it"
            )
        try:
            yield from self._written(text, rules)
        except Halted as halted:
            text.finish_reason = text.finish_reason or halted.reason
        except GeneratorExit:  # its reader has enough; what was fed stays
            raise
        except BaseException:  # the row may hold anything
            self._rows = self._new_rows()
            raise
        finally:
            if self._rows.busy:
                self._rows.release(text)

    def _new_rows(self) -> SharedRows:
        return SharedRows(self._engine.new_state(1, self._context), exact=False)

    def close(self) -> None:
        """Give the memory back."""
        self._rows.state.close()

    def _written(self, text: Text, rules: Rules) -> Iterator[tuple[int, int]]:
        self.reused = self._rows.admit(text)
        while text.finish_reason is None:
            rules.limits.check()
            fed = self._rows.feed()
            if fed:
                yield 0, rules.write(*fed[0])
                continue
            texts, logits = self._rows.advance()
            if texts and text.finish_reason is None:
                yield 0, rules.write(text, logits[0])
