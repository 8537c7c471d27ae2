"""Replaying a bundle's golden vectors on an engine of this machine, without PyTorch.

Five checks: whole prompts, a prompt in pieces, a batch of rows of different length, decoding on top
of that batch with the reference's tokens, and decoding freely. Logits must lie within the
tolerance. A chosen token must be the reference's, unless the reference itself was so close to a
tie that an engine within the tolerance may choose either; the report names the first such step.
"""

import platform
from datetime import datetime, timezone
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .bundle import GOLDEN_NAME, Bundle
from .compare import TOLERANCES, Difference, compare, is_tie
from .engines import Engine, open_engine
from .engines.base import State
from .errors import BundleError, InvalidInputError
from .golden import Golden
from .prefill import all_logits, last_logits, pad
from .receipt import Check, Receipt

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
        machine=f"{platform.system()} {platform.machine()}",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        checks=checks,
    )


class Replay:
    """The golden vectors of one bundle against one engine."""

    def __init__(self, bundle: Bundle, engine: Engine, tolerance: float) -> None:
        self.golden = Golden.load(bundle.file(GOLDEN_NAME))
        self.engine, self.tolerance = engine, tolerance
        self.context = bundle.manifest.model_info().block_size

    def prefill(self) -> Check:
        """Whole prompts, the longest first: the others meet a cache that is not clean."""
        state = self.engine.new_state(1, self.context)
        prompts = sorted(self.golden.prefill, key=lambda prompt: -len(prompt.ids))
        found = [all_logits(state, prompt.ids[None])[0] for prompt in prompts]
        return self._logits_check("prefill", found, [prompt.logits for prompt in prompts])

    def chunked(self) -> Check:
        """One prompt in pieces."""
        prompt, sizes = self.golden.chunked, self.golden.chunk_sizes
        state = self.engine.new_state(1, self.context)
        found = all_logits(state, prompt.ids[None], sizes)[0]
        return self._logits_check("chunked", [found], [prompt.logits])

    def ragged(self) -> Check:
        """Rows of different length in one batch."""
        rows = self.golden.ragged
        ids, _ = pad([row.ids for row in rows])
        found = all_logits(self.engine.new_state(len(rows), self.context), ids)
        own = [logits[: len(row.ids)] for logits, row in zip(found, rows, strict=True)]
        return self._logits_check("ragged", own, [row.logits for row in rows])

    def decode(self) -> Check:
        """One token at a time on top of the ragged batch, always feeding the reference's token."""
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        steps = len(reference[0].ids)
        found = np.empty((len(reference), steps, logits.shape[-1]), dtype=np.float32)
        for step in range(steps):
            found[:, step] = logits
            if step + 1 < steps:
                tokens = np.array([row.ids[step] for row in reference])
                logits = _decode_step(state, tokens, lengths + step)
        difference = _join([compare(found[i], row.logits) for i, row in enumerate(reference)])
        first, margin, tokens_agree = self._tokens(found)
        within = difference.relative <= self.tolerance
        return Check("decode", difference, self.tolerance, within and tokens_agree, first, margin)

    def continuation(self) -> Check:
        """Greedy decoding on its own tokens, each row up to its first excused difference."""
        state, lengths, logits = self._ragged_start()
        reference = self.golden.continuations
        steps = len(reference[0].ids)
        same = np.ones(len(reference), dtype=bool)  # rows that still follow the reference
        differences: list[Difference] = []
        first, margin, passed = None, None, True
        for step in range(steps):
            tokens = logits.argmax(axis=-1)
            for row in np.flatnonzero(same):
                golden = reference[row]
                differences.append(compare(logits[row][None], golden.logits[step][None]))
                if tokens[row] != golden.ids[step]:
                    same[row] = False
                    passed &= is_tie(golden.logits[step], golden.margins[step], self.tolerance)
                    if first is None:
                        first, margin = step, float(golden.margins[step])
            if step + 1 < steps:
                logits = _decode_step(state, tokens, lengths + step)
        difference = _join(differences)
        passed &= difference.relative <= self.tolerance
        return Check("continuation", difference, self.tolerance, bool(passed), first, margin)

    def _ragged_start(self) -> tuple[State, NDArray[np.int64], Logits]:
        """Return a state filled with the ragged batch, the lengths, and the last logits [B, V]."""
        ids, lengths = pad([row.ids for row in self.golden.ragged])
        state = self.engine.new_state(len(ids), self.context)
        return state, lengths, last_logits(state, ids, lengths)

    def _logits_check(self, name: str, found: list[Logits], reference: list[Logits]) -> Check:
        difference = _join([compare(f, r) for f, r in zip(found, reference, strict=True)])
        return Check(name, difference, self.tolerance, difference.relative <= self.tolerance)

    def _tokens(self, found: Logits) -> tuple[int | None, float | None, bool]:
        """Return first differing step, its margin, and whether all differences are ties."""
        first, margin, agree = None, None, True
        for row, golden in enumerate(self.golden.continuations):
            for step in np.flatnonzero(found[row].argmax(axis=-1) != golden.ids):
                agree &= is_tie(golden.logits[step], golden.margins[step], self.tolerance)
                if first is None or step < first:
                    first, margin = int(step), float(golden.margins[step])
        return first, margin, bool(agree)


def _decode_step(state: State, tokens: NDArray[np.int64], past_len: NDArray[np.int64]) -> Logits:
    """Feed one token to each row and return its logits [B, V]."""
    state.step(tokens[:, None], past_len, np.zeros((len(tokens), 1), dtype=np.int64))
    return state.logits()[:, 0].copy()


def _join(differences: list[Difference]) -> Difference:
    result = differences[0]
    for difference in differences[1:]:
        result = result.join(difference)
    return result
