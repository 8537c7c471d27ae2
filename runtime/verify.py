"""Replaying a bundle's golden vectors on an engine of this machine, without PyTorch.

The tokenizer must give the ids that it gave at export. Then five checks of the engine: whole
prompts, a prompt in pieces, a batch of rows of different length, decoding on top of that batch with
the reference's tokens, and decoding freely. Logits must lie within the tolerance. A chosen token
must be the reference's, unless the reference itself was so close to a tie that an engine within the
tolerance may choose either; the report names the first such step.
"""

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .bundle import GOLDEN_NAME, TOKENIZER_NAME, Bundle
from .compare import TOLERANCES, Difference, compare, is_tie
from .engines import Engine, open_engine
from .engines.base import State
from .errors import BundleError, InvalidInputError
from .golden import Continuation, Golden
from .prefill import all_logits, last_logits, pad
from .receipt import Check, Receipt
from .tokenizer import Tokenizer

__all__ = ["tolerance_of", "verify", "verify_engine"]

Logits = NDArray[np.float32]


def verify(
    bundle: Bundle,
    backend: str = "auto",
    check: Literal["hash", "size"] = "hash",
    threads: int | None = None,
) -> Receipt:
    """Check the bundle's bytes (unless `check` is "size"), then its computation.

    Raises:
        BundleError: if a file is not the one that was exported.
        EngineError: if the engine cannot run the bundle.
    """
    if check not in ("hash", "size"):
        raise InvalidInputError(f"check is {check!r}; it must be 'hash' or 'size'")
    if check == "hash":
        bundle.check_hashes()
    engine = open_engine(bundle, backend, threads)
    try:
        return verify_engine(bundle, engine)
    finally:
        engine.close()


def tolerance_of(bundle: Bundle) -> float:
    """Return the largest error, relative to max |logit|, that the bundle's precision allows."""
    precision = bundle.manifest.precision
    if precision not in TOLERANCES:
        raise BundleError(f"no tolerance is known for the precision {precision!r}")
    return TOLERANCES[precision]


def verify_engine(bundle: Bundle, engine: Engine) -> Receipt:
    """Replay the golden vectors of `bundle` on an open engine."""
    replay = Replay(bundle, engine, tolerance_of(bundle))
    checks = [
        *_tokenizer_checks(bundle, replay.golden),
        replay.prefill(),
        replay.chunked(),
        replay.ragged(),
        replay.decode(),
        replay.continuation(),
    ]
    return Receipt(
        bundle_id=bundle.manifest.id,
        graph=engine.graph.name,
        lowering=engine.graph.lowering,
        precision=bundle.manifest.precision,
        engine=engine.info.name,
        engine_version=engine.info.version,
        device=engine.info.device,
        machine=f"{platform.node()} ({platform.system()} {platform.machine()})",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        checks=checks,
    )


def _tokenizer_checks(bundle: Bundle, golden: Golden) -> list[Check]:
    """Return the check of the tokenizer, if the golden vectors have one: ids must be the same.

    Its "errors" are the numbers of ids and of characters that differ.
    """
    sample = golden.tokenizer
    if sample is None:
        return []
    wrong = len(sample.ids)
    if bundle.has(TOKENIZER_NAME):
        tokenizer = Tokenizer(bundle.file(TOKENIZER_NAME).read_bytes())
        wrong = _mismatches(_encode_or_nothing(tokenizer, sample.text), sample.ids.tolist())
        known = tokenizer.decode(list(range(tokenizer.vocab_size)))
        wrong += _mismatches(list(known), list(sample.vocabulary))
    count = len(sample.ids) + len(sample.vocabulary)
    difference = Difference(float(wrong), wrong / count, 0.0, 1 - wrong / count, count)
    return [Check("tokenizer", difference, 0.0, wrong == 0)]


def _encode_or_nothing(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except InvalidInputError:
        return []


def _mismatches(found: Sequence[object], expected: Sequence[object]) -> int:
    return sum(a != b for a, b in zip_longest(found, expected))


class Errors:
    """What one check found so far: figures over all positions, and the error at each."""

    def __init__(self, context: int) -> None:
        self.difference: Difference | None = None
        self.by_position = np.zeros(context)

    def add(self, first: int, found: Logits, reference: Logits) -> None:
        """Compare logits [N, V] with the reference's, at positions `first` and following."""
        difference = compare(found, reference)
        joined = self.difference.join(difference) if self.difference else difference
        self.difference = joined
        with np.errstate(invalid="ignore"):
            error = np.abs(found - reference).max(axis=-1) / np.abs(reference).max()
        here = self.by_position[first : first + len(error)]
        np.maximum(here, np.nan_to_num(error, nan=np.inf, posinf=np.inf), out=here)


class Replay:
    """The golden vectors of one bundle against one engine."""

    def __init__(self, bundle: Bundle, engine: Engine, tolerance: float) -> None:
        self.golden = Golden.load(bundle.file(GOLDEN_NAME))
        self.engine, self.tolerance = engine, tolerance
        self.context = bundle.manifest.model_info().block_size

    def prefill(self) -> Check:
        """Whole prompts, the longest first: the others meet a cache that is not clean."""
        state = self.engine.new_state(1, self.context)
        errors = Errors(self.context)
        for prompt in sorted(self.golden.prefill, key=lambda prompt: -len(prompt.ids)):
            errors.add(0, all_logits(state, prompt.ids[None])[0], prompt.logits)
        return self._check("prefill", errors)

    def chunked(self) -> Check:
        """One prompt in pieces."""
        prompt, sizes = self.golden.chunked, self.golden.chunk_sizes
        state = self.engine.new_state(1, self.context)
        errors = Errors(self.context)
        errors.add(0, all_logits(state, prompt.ids[None], sizes)[0], prompt.logits)
        return self._check("chunked", errors)

    def ragged(self) -> Check:
        """Rows of different length in one batch."""
        rows = self.golden.ragged
        ids, _ = pad([row.ids for row in rows])
        found = all_logits(self.engine.new_state(len(rows), self.context), ids)
        errors = Errors(self.context)
        for logits, row in zip(found, rows, strict=True):
            errors.add(0, logits[: len(row.ids)], row.logits)
        return self._check("ragged", errors)

    def decode(self) -> Check:
        """One token at a time on top of the ragged batch, always feeding the reference's token."""
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        errors, tokens = Errors(self.context), Tokens(self.tolerance)
        for step in range(len(reference[0].ids)):
            if step:
                fed = np.array([row.ids[step - 1] for row in reference])
                logits = _decode_step(state, fed, lengths + step - 1)
            for row, golden in enumerate(reference):
                position = int(lengths[row]) + step - 1
                errors.add(position, logits[row][None], golden.logits[step][None])
                tokens.add(golden, step, int(logits[row].argmax()))
        return self._check("decode", errors, tokens)

    def continuation(self) -> Check:
        """Greedy decoding on its own tokens, each row up to its first difference."""
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        errors, tokens = Errors(self.context), Tokens(self.tolerance)
        same = np.ones(len(reference), dtype=bool)  # rows that still follow the reference
        chosen = logits.argmax(axis=-1)
        for step in range(len(reference[0].ids)):
            if step:
                logits = _decode_step(state, chosen, lengths + step - 1)
            chosen = logits.argmax(axis=-1)
            for row in np.flatnonzero(same):
                golden, position = reference[row], int(lengths[row]) + step - 1
                errors.add(position, logits[row][None], golden.logits[step][None])
                same[row] = tokens.add(golden, step, int(chosen[row]))
        return self._check("continuation", errors, tokens)

    def _ragged_start(self) -> tuple[State, NDArray[np.int64], Logits]:
        """Return a state filled with the ragged batch, the lengths, and the last logits [B, V]."""
        ids, lengths = pad([row.ids for row in self.golden.ragged])
        state = self.engine.new_state(len(ids), self.context)
        return state, lengths, last_logits(state, ids, lengths)

    def _check(self, name: str, errors: Errors, tokens: "Tokens | None" = None) -> Check:
        difference = errors.difference
        assert difference is not None  # golden files have at least one prompt
        passed = difference.relative <= self.tolerance and (tokens is None or tokens.agree)
        return Check(
            name=name,
            difference=difference,
            tolerance=self.tolerance,
            passed=bool(passed),
            first_difference=tokens.first if tokens else None,
            margin=tokens.margin if tokens else None,
            by_position=[float(f"{error:.3g}") for error in errors.by_position],
        )


class Tokens:
    """Whether an engine chose the reference's tokens, or could be excused where it did not."""

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


def _decode_step(state: State, tokens: NDArray[np.int64], past_len: NDArray[np.int64]) -> Logits:
    """Feed one token to each row and return its logits [B, V]."""
    state.step(tokens[:, None], past_len, np.zeros((len(tokens), 1), dtype=np.int64))
    return state.logits()[:, 0].copy()
