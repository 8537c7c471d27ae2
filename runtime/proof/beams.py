"""Beam search as a check: the best texts and their scores are those that PyTorch found.

The search is that of `generate` with BEAMS beams and what else the bundle recommends, such as a
first token. Texts must be equal, unless the search was close to a tie in PyTorch. Scores are sums
of log-probabilities, which move by twice the error of a logit for each token.
"""

import math
from collections.abc import Sequence

from ..bundle.golden import Beams
from ..bundle.model_info import ModelInfo
from ..bundle.search import Search
from ..bundle.usage import Defaults, Usage
from ..engines.base import Engine
from ..generation.beam_run import new_search
from ..generation.beams import BeamSearch
from ..generation.begin import DEFAULT_START
from ..generation.following import follow
from ..generation.prefill import pad
from ..generation.wanted import ModelFacts, Wanted
from .compare import Difference
from .receipt import Check
from .tolerances import TOLERANCES

__all__ = ["BEAMS", "beam_check", "new_searches"]

BEAMS, STEPS = 4, 24
PER_TOKEN = 2  # errors of a logit in a log-probability


def new_searches(
    usage: Usage, context: int, vocab_size: int, count: int, tolerance: float
) -> list[BeamSearch]:
    """Return `count` searches that begin with the first ids of the bundle's texts."""
    greedy = Defaults(temperature=0.0, repetition_penalty=usage.sampling.repetition_penalty)
    search = Search(num_beams=BEAMS, max_new_tokens=STEPS, early_stopping=False, length_penalty=1.0)
    facts = ModelFacts(usage, context, vocab_size, "stop", tolerance, have_text=False)
    rules = Wanted(greedy, search, num_return_sequences=BEAMS).rules(facts)
    assert rules.beams is not None, "several beams make a search"
    start = list(usage.start_ids) or [DEFAULT_START]
    return [new_search(start, rules, rules.beams) for _ in range(count)]


def beam_check(
    engine: Engine, golden: Sequence[Beams], usage: Usage, info: ModelInfo, tolerance: float
) -> Check:
    """Search the texts of all sources at once, and compare them with PyTorch's."""
    context = info.block_size
    searches = new_searches(usage, context, info.vocab_size, len(golden), tolerance)
    sources = engine.encode(*pad([one.source for one in golden]))
    with engine.new_state(len(golden) * BEAMS, context, sources) as state:
        follow(state, searches, lambda: None)
    errors, same, passed = [], 0, True
    for reference, search in zip(golden, searches, strict=True):
        found = search.best()
        equal = [one.ids for one in found] == [text.tolist() for text in reference.texts]
        # Of other texts only the best ones are about as good.
        compared = len(found) if equal else 1
        error = _error([one.score for one in found[:compared]], reference)
        errors.append(error)
        same += equal
        may_differ = reference.near_tie or tolerance > TOLERANCES["float32"]
        passed &= (equal or may_differ) and error <= PER_TOKEN * tolerance
    worst = max(errors)
    scale = max(one.scale for one in golden)
    difference = Difference(worst * scale, worst, 0.0, same / len(golden), len(golden))
    return Check("beams", difference, PER_TOKEN * tolerance, bool(passed))


def _error(scores: Sequence[float], reference: Beams) -> float:
    """Return how far the first scores are off, relative to the largest logit."""
    if not scores:
        return math.inf
    pairs = zip(scores, reference.scores.tolist(), strict=False)
    worst: float = max(abs(found - right) for found, right in pairs)
    return worst / reference.scale
