"""Compare one engine with a bundle's golden vectors: six checks, and two that few need."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import Bundle
from ..bundle.golden import Continuation, Golden, Prompt
from ..bundle.manifest import Quantization
from ..bundle.usage import Usage
from ..engines.base import MANY_ROWS, Engine, State
from ..generation.prefill import last_logits, logit_pieces, pad, pieces_that_fit
from .beams import beam_check
from .compare import Difference, compare_rows
from .far_past import far_past
from .quality import QualitySum
from .receipt import Check, QualityCheck
from .tolerances import is_tie

__all__ = ["Errors", "Logits", "Replay", "Tokens", "counted"]

Logits = NDArray[np.float32]

BATCHED = 2  # rows that begin as one batch; the others join later
FEW_STEPS = 4  # of many rows
ALONE = 8  # last steps, which also feed the first row by itself: enough to become a CUDA graph


class Errors:
    """The errors that one check found so far: over all positions, and at each position."""

    def __init__(self) -> None:
        self.difference: Difference | None = None
        self.by_position: dict[int, float] = {}

    def add(self, position: int, found: Logits, golden: Prompt | Continuation, first: int) -> None:
        """Compare logits [N, V], which begin at `position`, with golden's from row `first`."""
        end = first + len(found)
        reference = golden.logits[first:end]
        top = None if golden.top is None else golden.top.rows(first, end)
        scale = float(np.abs(golden.logits).max())
        rows = compare_rows(found, reference, top)
        difference = rows.summary(scale)
        self.difference = self.difference.join(difference) if self.difference else difference
        with np.errstate(divide="ignore", invalid="ignore"):  # a damaged file may hold any numbers
            errors = np.nan_to_num(rows.max_abs / scale, nan=np.inf, posinf=np.inf)
        for place, error in enumerate(errors.tolist(), start=position):
            self.by_position[place] = max(error, self.by_position.get(place, 0.0))


class Replay:
    """Replays the golden vectors of one bundle on one engine."""

    def __init__(
        self, bundle: Bundle, golden: Golden, engine: Engine, tolerance: float, label: str = ""
    ) -> None:
        """Take the vectors of the bundle; the names of all checks begin with `label`."""
        self.label, self.golden = label, golden
        self.engine, self.tolerance = engine, tolerance
        self.usage = bundle.manifest.usage or Usage()
        self.info, self.vocab_size = (
            bundle.manifest.model_info,
            bundle.manifest.model_info.vocab_size,
        )
        self.context = self._longest()

    def checks(self) -> list[Check]:
        """Return all six checks, and that of beam search if there are golden beams.

        If an engine chose the reference's tokens at every step of `decode`, free decoding would
        feed it the same tokens. Both checks are one computation then, which is done only once.
        """
        first = [self.prefill(), self.chunked(), self.ragged(), self.far()]
        decode = self.decode()
        found = [*first, decode, *self.beams()]
        if decode.first_difference is None:
            return [*found, replace(decode, name=f"{self.label}continuation")]
        return [*found, self.continuation()]

    def beams(self) -> list[Check]:
        """Search the best texts; no check for models without an encoder."""
        if not self.golden.beams:
            return []
        golden, usage = self.golden.beams, self.usage
        check = beam_check(self.engine, golden, usage, self.info, self.tolerance)
        return [replace(check, name=f"{self.label}{check.name}")]

    def quality(self, quantization: Quantization | None) -> QualityCheck | None:
        """Compare a quantised model with its float32 original; None if it is not quantised."""
        if quantization is None:
            return None
        longest = max(len(window.ids) for window in self.golden.quality) - 1
        found = QualitySum()
        for window, state in self._alone(self.golden.quality, longest):
            ids = window.ids[None, :-1]  # (1, T)
            for start, logits in logit_pieces(state, ids, self._pieces(ids)):
                part = slice(start, start + logits.shape[1])
                top = None if window.top is None else window.top.rows(part.start, part.stop)
                found.add(logits[0], window.logits[part], window.ids[1:][part], top)
        return QualityCheck(found.result(), quantization.max_kl)

    def prefill(self) -> Check:
        """Whole prompts, the longest first, so that the others meet a used cache."""
        errors = Errors()
        prompts = sorted(self.golden.prefill, key=lambda prompt: -len(prompt.ids))
        for prompt, state in self._alone(prompts, self.context):
            self._feed(state, [prompt], errors)
        return self._check("prefill", errors)

    def chunked(self) -> Check:
        """One prompt in pieces."""
        state, errors = self._state([self.golden.chunked], self.context), Errors()
        self._feed(state, [self.golden.chunked], errors, self.golden.chunk_sizes)
        return self._check("chunked", errors)

    def ragged(self) -> Check:
        """Rows of different length in one batch."""
        rows = self.golden.ragged
        state, errors = self._state(rows, self.context), Errors()
        self._feed(state, rows, errors)
        return self._check("ragged", errors)

    def far(self) -> Check:
        """Prompts far into the block, after a long past, all of them of one source.

        The farthest comes first: it overwrites slots that the others do not see. The last token of
        each is then fed again, as decoding does.
        """
        info, errors = self.info, Errors()
        state = self._state(self.golden.far[:1], info.block_size)
        state.fill(far_past(self.golden.past, info.block_size))
        for prompt in sorted(self.golden.far, key=lambda prompt: -prompt.past_len):
            ids, past = prompt.ids[None], np.array([prompt.past_len])  # (1, T), (1,)
            state.step(ids, past, np.arange(ids.shape[1])[None])
            errors.add(prompt.past_len, state.logits()[0], prompt, 0)
            last = ids.shape[1] - 1
            again = _decode_step(state, ids[:, last], past + last)
            errors.add(prompt.past_len + last, again, prompt, last)
        return self._check("far positions", errors)

    def _feed(
        self, state: State, rows: list[Prompt], errors: Errors, sizes: list[int] | None = None
    ) -> None:
        """Feed the rows as one batch and compare all their logits, a piece at a time."""
        ids, lengths = pad([row.ids for row in rows])
        if sizes is None:
            sizes = self._pieces(ids)
        for start, logits in logit_pieces(state, ids, sizes):
            for row, golden in enumerate(rows):
                own = logits[row, : max(0, int(lengths[row]) - start)]
                if len(own):
                    errors.add(start, own, golden, start)

    def _state(self, rows: Sequence[Prompt], context: int) -> State:
        """Return an empty state for these rows, whose sources are encoded if they have any."""
        sources = [row.source for row in rows if row.source is not None]
        encoded = self.engine.encode(*pad(sources)) if sources else None
        return self.engine.new_state(len(rows), context, encoded)

    def _alone(self, prompts: list[Prompt], context: int) -> Iterator[tuple[Prompt, State]]:
        """Yield each prompt with a state of one row, the same one unless it has a source."""
        state: State | None = None
        for prompt in prompts:
            if state is None or prompt.source is not None:
                state = self._state([prompt], context)
            yield prompt, state

    def _longest(self) -> int:
        """Return how many slots the checks need, except for the far positions."""
        golden, steps = self.golden, len(self.golden.continuations[0].ids)
        lengths = [len(prompt.ids) for prompt in [*golden.prefill, golden.chunked]]
        return max(*lengths, *(len(row.ids) + steps - 1 for row in golden.ragged))

    def _pieces(self, ids: NDArray[np.int64]) -> list[int]:
        """Return how to cut ids [B, T] so that no piece has too many logits."""
        rows, length = ids.shape
        return pieces_that_fit(rows, length, self.vocab_size)

    def decode(self) -> Check:
        """One token at a time on top of the ragged rows, always feeding the reference's token.

        Half-way the rows change places, and the last steps are done for the first row alone and
        for all rows. Texts that come and go make a state do the same.
        """
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        errors, tokens = Errors(), Tokens(self.tolerance)
        steps = len(reference[0].ids)
        for step in range(steps):
            if step == steps // 2:
                places = [*range(1, len(reference)), 0]
                state.reorder(places, min(int(lengths.max()) + step, self.context))
                reference, lengths = [reference[row] for row in places], lengths[places]
                logits = logits[places]
            if step:
                fed = np.array([row.ids[step - 1] for row in reference])
                alone = steps - step <= ALONE
                logits = _decode_step(state, fed, lengths + step - 1, first_alone=alone)
            for row, golden in enumerate(reference):
                position = int(lengths[row]) + step - 1
                errors.add(position, logits[row][None], golden, step)
                tokens.add(golden, step, int(logits[row].argmax()))
        return self._check("decode", errors, tokens)

    def many_rows(self) -> Check:
        """So many rows that the engine decodes with its graph for long steps, if it has one."""
        copies = -(-MANY_ROWS // len(self.golden.ragged))
        rows, reference = self.golden.ragged * copies, self.golden.continuations * copies
        state, errors, tokens = self._state(rows, self.context), Errors(), Tokens(self.tolerance)
        ids, lengths = pad([row.ids for row in rows])
        last_logits(state, ids, lengths)
        for step in range(1, 1 + min(FEW_STEPS, len(reference[0].ids) - 1)):
            fed = np.array([row.ids[step - 1] for row in reference])
            logits = _decode_step(state, fed, lengths + step - 1)
            for row, golden in enumerate(reference):
                errors.add(int(lengths[row]) + step - 1, logits[row][None], golden, step)
                tokens.add(golden, step, int(logits[row].argmax()))
        return self._check("many rows", errors, tokens)

    def continuation(self) -> Check:
        """Greedy decoding that feeds its own tokens, each row up to its first difference."""
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        errors, tokens = Errors(), Tokens(self.tolerance)
        same = np.ones(len(reference), dtype=bool)  # rows that still follow the reference
        chosen = logits.argmax(axis=-1)
        for step in range(len(reference[0].ids)):
            if step:
                logits = _decode_step(state, chosen, lengths + step - 1)
            chosen = logits.argmax(axis=-1)
            for row in np.flatnonzero(same):
                golden, position = reference[row], int(lengths[row]) + step - 1
                errors.add(position, logits[row][None], golden, step)
                same[row] = tokens.add(golden, step, int(chosen[row]))
        return self._check("continuation", errors, tokens)

    def _ragged_start(self) -> tuple[State, NDArray[np.int64], Logits]:
        """Return a state filled with the ragged rows, their lengths, and the last logits [B, V].

        The first rows are fed as one batch. The others join one by one, as texts do.
        """
        rows = [row.ids for row in self.golden.ragged]
        state = self._state(self.golden.ragged, self.context)
        together = rows[:BATCHED]
        logits = [last_logits(state, *pad(together))]
        for first, row in enumerate(rows[BATCHED:], start=len(together)):
            logits.append(last_logits(state, *pad([row]), first=first))
        return state, np.array([len(row) for row in rows]), np.concatenate(logits)

    def _check(self, name: str, errors: Errors, tokens: "Tokens | None" = None) -> Check:
        difference = errors.difference
        assert difference is not None  # golden files have at least one prompt
        passed = difference.relative <= self.tolerance and (tokens is None or tokens.agree)
        return Check(
            name=self.label + name,
            difference=difference,
            tolerance=self.tolerance,
            passed=bool(passed),
            first_difference=tokens.first if tokens else None,
            margin=tokens.margin if tokens else None,
            by_position=[
                (place, float(f"{error:.3g}"))
                for place, error in sorted(errors.by_position.items())
            ],
        )


class Tokens:
    """Whether an engine chose the reference's tokens, or another one only at a near tie."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.agree = tolerance, True
        self.first: int | None = None
        self.margin: float | None = None

    def add(self, golden: Continuation, step: int, token: int) -> bool:
        """Note the token chosen at `step` of a row; return whether it is the reference's."""
        if token == golden.ids[step]:
            return True
        margin = float(golden.margins[step])
        self.agree &= is_tie(golden.logits[step], margin, self.tolerance)
        if self.first is None or step < self.first:
            self.first, self.margin = step, margin
        return False


def counted(name: str, wrong: int, count: int) -> Check:
    """Return a check that allows no error; its error is how many of `count` things are wrong."""
    difference = Difference(float(wrong), wrong / count, 0.0, 1 - wrong / count, count)
    return Check(name, difference, 0.0, wrong == 0)


def _decode_step(
    state: State,
    tokens: NDArray[np.int64],
    past_len: NDArray[np.int64],
    *,
    first_alone: bool = False,
) -> Logits:
    """Feed one token to each row, as generation does, and return its logits [B, V].

    With `first_alone`, the logits of the first row come from a step over that row alone. The step
    over all rows then repeats it.
    """
    state.next_ids[:, 0] = tokens
    state.past_len[:] = past_len
    alone = None
    if first_alone:
        state.decode(1)
        alone = state.logits()[0, 0].copy()
    state.decode()
    logits = state.logits()[:, 0].copy()
    if alone is not None:
        logits[0] = alone
    return logits
