"""Texts of a given form: JSON of a schema, or what a regular expression matches.

The work is llguidance's. Here a grammar is an edit: it forbids every token with which no text of
the form could go on, and ends a text that can only end.
"""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..packages import pip_install
from ..text.token_bytes import token_bytes
from ..text.tokenizer import Tokenizer
from .edits import Edit, Scores

__all__ = ["Form", "Grammar", "Schema", "Vocabulary", "form_of", "json_rule", "schema_of"]

Schema = Mapping[str, Any] | str
LONGEST_COMPLAINT = 300  # characters
LONGEST_SCHEMA = 100_000  # characters; the time to read one grows with the square
FUEL = 200_000  # of llguidance, for the lexer of a grammar: about 0.1 s
SCALARS = ("integer", "number", "boolean", "null")
DEEPEST = 100  # objects and lists within one another, in a schema
NO_TOKEN = "NoExtension"  # llguidance's word for a place that nothing can follow
SPECIAL = b"\xff"
MOST_TEXTS = 4096  # of one call, whose places in the grammar are kept


class Form:
    """A form of texts, as `generate` is asked for it.

    Attributes:
        source: the grammar, in llguidance's notation.
        name: the argument that gave it.
        rules: the rule `body` of llguidance's Lark that describes it, and those that it needs;
            none for a regular expression.
        needs: bytes without which no text of it is likely to be written.
    """

    def __init__(
        self,
        json_schema: Schema | None = None,
        regex: str | None = None,
        *,
        rules: str = "",
        name: str = "",
    ) -> None:
        """Read a schema, a regular expression, or `rules`; `name`: what to call them in errors.

        Raises:
            InvalidInputError: if there are two of them, or one of them is malformed, or llguidance
                is not installed.
        """
        if json_schema is not None and regex is not None:
            raise InvalidInputError("json_schema and regex are two forms; give one of them")
        matcher = _library().LLMatcher
        self.name, self.rules, self.needs = name, rules, b""
        if rules:
            self.source, self.needs = matcher.grammar_from_lark(f"start: body\n{rules}"), b'"'
        elif regex is not None:
            if not isinstance(regex, str):
                raise InvalidInputError(f"regex is {regex!r:.60}; it must be a string")
            self.name, self.source = "regex", matcher.grammar_from_regex(regex)
        else:
            self.name = name or "json_schema"
            schema = schema_of(json_schema, self.name)
            self.needs = b'"' if _writes_texts(schema) else b""
            self.rules = f"body: {json_rule(schema)}\n"
            try:
                self.source = matcher.grammar_from_json_schema(
                    json.dumps(schema), overrides={"whitespace_flexible": False}
                )
            except ValueError as error:  # half a character, or a number beyond all floats
                raise self.refused(str(error)) from error
        self._validate()

    def after(self, rule: str) -> "Form":
        """Return the form of texts that begin with what a Lark rule describes, and go on so."""
        found = copy(self)
        lark = f"start: before body\nbefore: {rule}\n{self.rules}"
        found.source = _library().LLMatcher.grammar_from_lark(lark)
        found._validate()
        return found

    def _validate(self) -> None:
        complaint = _library().LLMatcher.validate_grammar(self.source, limits=_limits())
        if complaint and not complaint.startswith("WARNING"):
            raise self.refused(complaint)

    def refused(self, complaint: str) -> InvalidInputError:
        """Return what is wrong with the form."""
        words = " ".join(complaint.partition("<state>")[0].split())[:LONGEST_COMPLAINT]
        return InvalidInputError(f"{self.name} cannot be followed: {words}")


def form_of(json_schema: Schema | None, regex: str | None) -> Form | None:
    """Return the form that is asked for; None: any text will do."""
    return None if json_schema is None and regex is None else Form(json_schema, regex)


class Vocabulary:
    """The tokens of a model as a grammar sees them, made once for each set of end ids."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokens, self.size = token_bytes(tokenizer, size), size
        self._made: dict[frozenset[int], Any] = {}

    def ending_with(self, end_ids: frozenset[int]) -> Any:
        """Return llguidance's tokenizer; without `end_ids`, an id beyond the vocabulary ends."""
        if end_ids not in self._made:
            library, ends = _library(), sorted(end_ids) or [self.size]
            wrapped = library.TokenizerWrapper(_Tokens(self.tokens, ends))
            self._made[end_ids] = library.LLTokenizer(wrapped, eos_token=ends)
        return self._made[end_ids]


class _Tokens:
    """What llguidance wants to know of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], ends: Sequence[int]) -> None:
        self.eos_token_id = ends[0]
        # A byte that no text has keeps special tokens, and ids without a text, apart.
        self.tokens = [
            one if one and number not in ends else SPECIAL + str(number).encode()
            for number, one in enumerate([*tokens, *([b""] if ends[0] == len(tokens) else [])])
        ]
        self.special_token_ids = [n for n, one in enumerate(self.tokens) if one[:1] == SPECIAL]
        self._single = {one: number for number, one in enumerate(self.tokens) if len(one) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of single bytes, where there are some: nothing else is asked for."""
        data = text.encode() if isinstance(text, str) else text
        found = (self._single.get(bytes([byte])) for byte in data)
        return [number for number in found if number is not None]


class Grammar(Edit):
    """Forbids what leaves the form. It follows each text by its ids."""

    def __init__(self, form: Form, vocabulary: Vocabulary, end_ids: frozenset[int]) -> None:
        """Prepare to follow texts.

        Raises:
            InvalidInputError: if the vocabulary cannot write any text of the form.
        """
        self.form, self.size, self.end_ids = form, vocabulary.size, end_ids
        self._tokens = vocabulary.ending_with(end_ids)
        self._texts: dict[int, tuple[list[int], Any]] = {}  # by the id of the list of their ids
        self._beginning = self._made()
        self._check_beginning(self._beginning)
        for byte in form.needs:
            if not any(byte in token for token in vocabulary.tokens):
                raise form.refused(f"the vocabulary has no token with {chr(byte)}")

    def apply(self, scores: Scores, ids: Sequence[int], step: int) -> None:
        """Forbid what cannot follow."""
        allowed = self._allowed(self._followed(ids, step))
        scores[: self.size][~allowed] = -np.inf
        scores[self.size :] = -np.inf

    def completes(self, ids: Sequence[int], step: int) -> bool:
        """Return whether nothing can follow but the end."""
        matcher = self._followed(ids, step)
        if matcher.is_stopped():
            return True
        allowed = self._allowed(matcher)
        allowed[sorted(self.end_ids)] = False
        return bool(matcher.is_accepting() and not allowed.any())

    def _check_beginning(self, matcher: Any) -> None:
        """Refuse a form that no text of the vocabulary can have."""
        allowed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if NO_TOKEN in matcher.get_error() or not allowed.any():
            raise self.form.refused("the vocabulary has no token that such a text could begin with")
        self._check(matcher)

    def _made(self) -> Any:
        library = _library()
        matcher = library.LLMatcher(self._tokens, self.form.source, log_level=0, limits=_limits())
        self._check(matcher)
        return matcher

    def _followed(self, ids: Sequence[int], step: int) -> Any:
        """Return the matcher of a text, which has taken its `step` new ids."""
        new = list(ids[len(ids) - step :])
        taken, matcher = self._texts.pop(id(ids), ([], None))
        if matcher is None or new[: len(taken)] != taken:
            taken, matcher = [], self._beginning.deep_copy()
        fresh = new[len(taken) :]
        if fresh and not matcher.is_stopped() and not matcher.consume_tokens(fresh):
            self._check(matcher)
        if len(self._texts) >= MOST_TEXTS:
            self._texts.pop(next(iter(self._texts)))
        self._texts[id(ids)] = (new, matcher)
        return matcher

    def _allowed(self, matcher: Any) -> Any:
        """Return which ids may follow, bool [size]."""
        if matcher.is_stopped():
            allowed = np.zeros(self.size, dtype=bool)
            allowed[sorted(self.end_ids)] = True
            return allowed
        mask = matcher.compute_bitmask()
        self._check(matcher)
        words = np.frombuffer(mask, dtype=np.uint8)
        return np.unpackbits(words, bitorder="little")[: self.size].astype(bool)

    def _check(self, matcher: Any) -> None:
        if matcher.is_error():
            raise self.form.refused(matcher.get_error())


def schema_of(schema: Any, name: str) -> dict[str, Any]:
    """Return a schema, given as an object or as JSON, as plain JSON.

    Raises:
        InvalidInputError: if it is none; `name` is where it stands.
    """
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        if not isinstance(schema, Mapping):
            raise InvalidInputError(
                f"{name} is {schema!r:.60}; it must be an object, or the JSON of one"
            )
        _check_depth(schema, DEEPEST, name)
        found = json.dumps(schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"{name} is no JSON: {error}") from error
    if len(found) > LONGEST_SCHEMA:
        raise InvalidInputError(
            f"{name} has {len(found):,} characters; there may be {LONGEST_SCHEMA:,}"
        )
    return dict(json.loads(found))


def json_rule(schema: Mapping[str, Any], item: str = ",", key: str = ":") -> str:
    """Return what Lark calls JSON of a schema, with these signs between items, and after keys."""
    how = {"whitespace_flexible": False, "item_separator": item, "key_separator": key}
    return "%json " + json.dumps({**schema, "x-guidance": how})


def _check_depth(value: Any, left: int, name: str) -> None:
    if left == 0:
        raise InvalidInputError(f"{name} nests objects and lists more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _check_depth(part, left - 1, name)


def _writes_texts(schema: Any) -> bool:
    """Return whether JSON of a schema has texts or keys in it, as far as one can see at once."""
    if not isinstance(schema, Mapping) or schema.get("type") not in (*SCALARS, "array"):
        return True
    return schema["type"] == "array" and _writes_texts(schema.get("items"))


def _limits() -> Any:
    """Return what a grammar may cost: a fifth of llguidance's default, where 1 s passes at once."""
    return _library().LLParserLimits(initial_lexer_fuel=FUEL)


def _library() -> Any:
    try:
        import llguidance  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidInputError(
            f"json_schema and regex need llguidance: {pip_install('serve')}"
        ) from error
    return llguidance
