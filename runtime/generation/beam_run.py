"""One call of `generate`: token by token, or as a search with beams."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..engines.base import Engine, Sources
from ..text.stops import Detokenizer
from ..text.tokenizer import Tokenizer
from .beams import BeamRules, BeamSearch, Hypothesis
from .following import follow
from .limits import Halted
from .loop import Rules
from .rows import FinishReason, Text
from .run import Run
from .speculation import Pace
from .writing import Result, Timings

__all__ = ["generated", "new_search"]


def generated(
    engine: Engine,
    tokenizer: Tokenizer | None,
    texts: list[Text],
    rules: Rules,
    pace: Pace,
    sources: Callable[[], Sources] | None = None,
) -> list[Result]:
    """Write all texts to their end, or search their best continuations; return the results.

    For a search, each text fits the context. `sources` encodes their sources, if they have any.
    """
    if rules.beams is not None:
        search = _BeamRun(texts, rules, rules.beams, tokenizer)
        if rules.max_new_tokens > 0:
            search.follow(engine, sources)
        return search.results()
    run = Run(engine, tokenizer, texts, rules, pace, sources)
    for _ in run.pieces():
        pass
    return run.results()


class _BeamRun:
    """The searches of one call, and the clock."""

    def __init__(
        self, texts: Sequence[Text], rules: Rules, beams: BeamRules, tokenizer: Tokenizer | None
    ) -> None:
        self.texts, self.rules, self.tokenizer = texts, rules, tokenizer
        self.beams = beams.count
        self.searches = [new_search(text.ids, rules, beams, tokenizer) for text in texts]
        self.begin = time.perf_counter()
        self.first_token_s = self.total_s = 0.0

    def follow(self, engine: Engine, sources: Callable[[], Sources] | None) -> None:
        """Run the searches."""
        rows = len(self.searches) * self.beams
        encoded = None if sources is None else sources()
        slots = self.rules.slots(engine, self.texts)
        with engine.new_state(rows, slots, encoded) as state:
            try:
                follow(state, self.searches, self._tell, self.rules.limits)
            except Halted as halted:
                for search in self.searches:
                    search.end_soon(halted.reason)

    def results(self) -> list[Result]:
        """Return what was found."""
        results = []
        for text, search in zip(self.texts, self.searches, strict=True):
            best = search.best() or [Hypothesis(0.0, 0.0, [])]
            hypotheses = tuple(self._result(text, search, one) for one in best)
            results.append(replace(hypotheses[0], hypotheses=hypotheses))
        return results

    def _result(self, text: Text, search: BeamSearch, found: Hypothesis) -> Result:
        written, stopped = self._written(text.ids, found.ids)
        return Result(
            text=written,
            token_ids=found.ids,
            finish_reason="stop" if stopped else self._reason(search, found.ids),
            timings=Timings(self.first_token_s, self.total_s, len(found.ids)),
            seed=text.seed,
            first_near_tie=0 if search.near_tie else None,
            score=found.score,
        )

    def _written(self, prompt: list[int], ids: list[int]) -> tuple[str | None, bool]:
        """Return the text of new ids, None without a tokenizer, and whether a stop string ended it.

        The text is what comes before the stop string.
        """
        if self.tokenizer is None:
            return None, False
        detokenizer = Detokenizer(self.tokenizer, self.rules.stop, prompt)
        pieces = [detokenizer.push(token) for token in ids if token not in self.rules.end_ids]
        return "".join(pieces) + detokenizer.finish(), detokenizer.stopped

    def _reason(self, search: BeamSearch, ids: Sequence[int]) -> FinishReason:
        """Return why a text ended that no stop string did."""
        if ids and ids[-1] in self.rules.end_ids:
            return "eos"
        if search.halted is not None:
            return search.halted
        return "length" if len(ids) == self.rules.max_new_tokens else "context"

    def _tell(self) -> None:
        self.total_s = time.perf_counter() - self.begin
        self.first_token_s = self.first_token_s or self.total_s


def new_search(
    prompt: list[int], rules: Rules, beams: BeamRules, tokenizer: Tokenizer | None = None
) -> BeamSearch:
    """Return the search for what follows a prompt; stop strings need a tokenizer."""
    # The last token is not fed, so it needs no slot.
    room = rules.context + 1 - len(prompt)
    return BeamSearch(
        prompt,
        beams,
        steps=min(rules.max_new_tokens, room),
        end_ids=rules.end_ids,
        edits=(*rules.sampling.edits, *rules.edits),
        tolerance=rules.tolerance,
        named=rules.named,
        watch=Detokenizer(tokenizer, rules.stop, prompt) if tokenizer and rules.stop else None,
    )
