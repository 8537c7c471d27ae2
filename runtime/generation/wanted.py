"""What the caller of `generate` or `stream` wants, put together with what the bundle recommends."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..bundle.search import LARGEST_LENGTH_PENALTY, MOST_BEAMS, Search
from ..bundle.usage import Defaults, Usage
from ..errors import InvalidInputError
from ..whole import plain
from .arguments import end_ids_of, sampling_of, stop_strings_of
from .beams import BeamRules
from .edits import Edit, edits_of
from .grammar import Form, Grammar, Vocabulary
from .limits import Limits
from .logprobs import check_count
from .loop import Overflow, Rules
from .sampling import Sampling

__all__ = ["DEFAULT_NEW_TOKENS", "ModelFacts", "Wanted"]

DEFAULT_NEW_TOKENS = 200


@dataclass(frozen=True)
class ModelFacts:
    """What the settings of a call depend on, beside the call."""

    usage: Usage
    context: int
    vocab_size: int
    overflow: Overflow  # unless the caller says otherwise
    tolerance: float
    have_text: bool
    has_encoder: bool = False
    named: int | None = None  # ids from here on have no text; None: unknown
    vocabulary: Callable[[], Vocabulary] | None = None  # None: there is no tokenizer


@dataclass(frozen=True)
class Wanted:
    """The arguments of a call; None, also within them, where the bundle or a default decides.

    `LanguageModel.generate` tells what they mean. `before` and `after` are edits around the
    repetition penalty, which only a server is asked for. `shown` has special tokens that are text.
    """

    sampling: Defaults
    search: Search
    num_return_sequences: int | None = None
    stop: str | Sequence[str] | None = None
    end_ids: int | Collection[int] | None = None
    ignore_eos: bool = False
    overflow: Overflow | None = None
    speculate: int = 0
    logprobs: int | None = None
    limits: Limits = field(default_factory=Limits)
    before: tuple[Edit, ...] = ()
    after: tuple[Edit, ...] = ()
    form: Form | None = None
    shown: frozenset[int] = frozenset()

    def rules(self, model: ModelFacts) -> Rules:
        """Return the settings of the call.

        Raises:
            InvalidInputError: if a setting is impossible, or does not go with another one.
        """
        own = plain(replace(self, sampling=plain(self.sampling), search=plain(self.search)))
        return own._rules(model)

    def _rules(self, model: ModelFacts) -> Rules:
        """Return the settings of the call; all whole numbers are ints."""
        _check(self.search, model.vocab_size)
        check_count(self.logprobs, model.vocab_size)
        if model.has_encoder and (self.speculate or self.overflow is not None):
            name = "speculate" if self.speculate else "overflow"
            raise InvalidInputError(f"{name} is for models without an encoder; leave it out")
        search = Search(**model.usage.search.told() | self.search.told())
        if search.max_new_tokens is None:
            search = replace(search, max_new_tokens=DEFAULT_NEW_TOKENS)
        end_ids = end_ids_of(model.usage, self.end_ids, ignore_eos=self.ignore_eos)
        sampling, beams = sampling_of(model.usage, self.sampling), self._beams(search)
        overflow = model.overflow if self.overflow is None else self.overflow
        named = _named(model, search, end_ids)
        if beams is not None:
            self._check_beams(beams, sampling)
            _check_room(beams.count, named, len(end_ids))
            overflow = "stop"
        longest = search.max_new_tokens
        assert longest is not None, "it has just been set"
        return Rules(
            context=model.context,
            max_new_tokens=longest,
            sampling=replace(sampling, repetition_penalty=1.0),
            overflow=overflow,
            tolerance=model.tolerance,
            stop=stop_strings_of(self.stop, have_text=model.have_text),
            end_ids=end_ids,
            speculate=self.speculate,
            edits=(
                *self._grammar(model, end_ids),
                *self.before,
                *sampling.edits,
                *self.after,
                *edits_of(search, end_ids, longest),
            ),
            beams=beams,
            named=named,
            logprobs=self.logprobs,
            limits=self.limits,
            shown=self.shown,
        )

    def _grammar(self, model: ModelFacts, end_ids: frozenset[int]) -> tuple[Edit, ...]:
        if self.form is None:
            return ()
        if model.vocabulary is None:
            raise InvalidInputError(f"{self.form.name} needs a tokenizer; the bundle has none")
        return (Grammar(self.form, model.vocabulary(), end_ids),)

    def _beams(self, search: Search) -> BeamRules | None:
        """Return how to search; None for a single beam, which needs no search."""
        count, returned = search.num_beams or 1, self.num_return_sequences
        if returned is None:
            returned = 1
        if type(returned) is not int or not 1 <= returned <= count:
            raise InvalidInputError(
                f"num_return_sequences is {returned!r}; it must be a whole number from 1 to "
                f"num_beams, which is {count}"
            )
        if count == 1:
            return None
        penalty = 1.0 if search.length_penalty is None else search.length_penalty
        return BeamRules(count, returned, penalty, search.early_stopping or False)

    def _check_beams(self, beams: BeamRules, sampling: Sampling) -> None:
        """Refuse what does not go with a search."""
        form = "a form" if self.form is None else self.form.name
        conflicts = {
            "temperature above 0": sampling.temperature > 0.0,
            "speculate": self.speculate != 0,
            "logprobs": self.logprobs is not None,
            form: self.form is not None,
            'overflow="slide"': self.overflow == "slide",
        }
        for name, given in conflicts.items():
            if given:
                raise InvalidInputError(
                    f"{name} does not go with a search of {beams.count} beams; leave it out, or "
                    f"give num_beams=1"
                )


def _named(model: ModelFacts, search: Search, end_ids: frozenset[int]) -> int:
    """Return below which number ids can be chosen: those with a text, and those asked for."""
    if model.named is None:
        return model.vocab_size
    forced = [token for token in (search.forced_bos, search.forced_eos) if token is not None]
    return max([model.named, *(token + 1 for token in (*end_ids, *forced))])


def _check(given: Search, vocab_size: int) -> None:
    """Refuse settings of the caller that no search can have."""
    for name, least in (
        ("max_new_tokens", 0),
        ("num_beams", 1),
        ("no_repeat_ngram_size", 0),
        ("min_new_tokens", 0),
        ("forced_bos", 0),
    ):
        value = getattr(given, name)
        if value is not None and (type(value) is not int or value < least):
            raise InvalidInputError(
                f"{name} is {value!r:.60}; it must be an int of {least} or more"
            )
    if given.forced_bos is not None and given.forced_bos >= vocab_size:
        raise InvalidInputError(
            f"forced_bos is {given.forced_bos}, which is not in the vocabulary of {vocab_size}"
        )
    if given.num_beams is not None and given.num_beams > MOST_BEAMS:
        raise InvalidInputError(f"num_beams is {given.num_beams}; there may be {MOST_BEAMS}")
    penalty: Any = given.length_penalty
    is_number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
    if penalty is not None and not (is_number and abs(penalty) <= LARGEST_LENGTH_PENALTY):
        raise InvalidInputError(
            f"length_penalty is {penalty!r:.60}; it must be a number from "
            f"-{LARGEST_LENGTH_PENALTY:g} to {LARGEST_LENGTH_PENALTY:g}"
        )
    stopping: Any = given.early_stopping
    known = isinstance(stopping, bool | str) and stopping in (True, False, "never")
    if not (known or stopping is None):
        raise InvalidInputError(
            f"early_stopping is {stopping!r:.60}; it must be True, False or 'never'"
        )


def _check_room(beams: int, vocab_size: int, ends: int) -> None:
    if beams > vocab_size - ends:
        raise InvalidInputError(
            f"num_beams is {beams}, and a vocabulary of {vocab_size} with {ends} end ids has only "
            f"{vocab_size - ends} first tokens to go on from"
        )
