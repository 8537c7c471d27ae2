"""Read the text side of a GGUF file, from its metadata.

The keys are those of the GGUF specification (https://github.com/ggml-org/ggml, docs/gguf.md), and
what a missing one means is as in llama.cpp (src/llama-vocab.cpp).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tokenizers import AddedToken, Tokenizer

from edgegpt.runtime.bundle.usage import Usage

from ...errors import CheckpointError
from .backend import listed, quote
from .byte_level import byte_level_tokenizer
from .chat_template import checked_template
from .embedding import fitted
from .found import Found
from .ids import within
from .pieces import Kind, Piece, PieceModel, piece_tokenizer
from .splits import SPLITS

__all__ = ["text_of_gguf"]

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
WHERE = "the tokenizer in the GGUF file"
# llama.cpp ends a text at these, too, if a file names no end of turn (eot_token_id): files made
# before that key existed tell it only so.
ENDS_OF_TURN = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "[EOT]",
    "<\uff5cend▁of▁sentence\uff5c>",  # DeepSeek
    "<end_of_utterance>",
)
# The names that chat templates know special tokens by, and those of the keys.
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
SPECIAL = (*ROLES.values(), "eot", "eom")
NO_TOKEN = (-1, 2**32 - 1)  # ids that stand for none

T = TypeVar("T")


def text_of_gguf(fields: Mapping[str, Any], vocab_size: int) -> Found:
    """Return what the metadata of a GGUF file says about text.

    Args:
        fields: the file's metadata: texts, numbers, booleans, and lists of them, by key.
        vocab_size: rows of the model's embedding.

    Raises:
        CheckpointError: if the tokenizer is of a kind that is not supported, by name, or damaged.
    """
    template = checked_template(fields.get(TEMPLATE), f"{TEMPLATE} in the GGUF file")
    others = sorted(key[len(TEMPLATE) + 1 :] for key in fields if key.startswith(f"{TEMPLATE}."))
    notes = (f"chat templates left out: {listed(others)}",) if others else ()
    vocabulary = Vocabulary.of(fields)
    if vocabulary is None:
        note = "the GGUF file has no tokenizer: the model works with token ids only"
        return Found(None, Usage(), template, (note, *notes))
    kind = vocabulary.take("model", str)
    if kind not in BUILDERS:
        raise CheckpointError(
            f"the GGUF file has a tokenizer of the kind {quote(kind)}; supported are: "
            f"{', '.join(BUILDERS)}"
        )
    tokenizer, begins = BUILDERS[kind](vocabulary)
    fit = fitted(tokenizer.to_str(), vocab_size, WHERE)
    usage, more = vocabulary.usage(begins=begins, rows=vocab_size)
    return Found(fit.text, usage, template, (*fit.notes, *more, *notes))


@dataclass(frozen=True)
class Vocabulary:
    """The keys that begin with "tokenizer.ggml.".

    Attributes:
        fields: their values, by the rest of the key.
        tokens: the text of each token, by id.
        kinds: the kind of each token, by id.
    """

    fields: dict[str, Any]
    tokens: list[str]
    kinds: list[Kind]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Vocabulary | None":
        """Return the vocabulary, or None if the file has none."""
        own = {key[len(PREFIX) :]: fields[key] for key in fields if key.startswith(PREFIX)}
        if own.get("model") in (None, "none", "no_vocab"):
            return None
        tokens = _listed(own, "tokens", str)
        if not tokens:
            raise CheckpointError("the GGUF file has a tokenizer without tokens")
        kinds = _listed(own, "token_type", int) if "token_type" in own else [1] * len(tokens)
        if len(kinds) < len(tokens):
            raise CheckpointError(
                f"the GGUF file has {len(tokens):,} tokens, but {len(kinds):,} kinds of them"
            )
        known = set(Kind)
        named = [Kind(kind) if kind in known else Kind.NORMAL for kind in kinds[: len(tokens)]]
        # An empty text is no token; llama.cpp renames them so.
        tokens = [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]
        if len(set(tokens)) < len(tokens):
            raise CheckpointError("the GGUF file has the same token twice")
        return cls(own, tokens, named)

    def take(self, key: str, kind: type[T], usual: T | None = None) -> T:
        """Return the value of a key, which must be of type `kind`; `usual` if it is missing."""
        value = self.fields.get(key, usual)
        if type(value) is not kind:
            raise CheckpointError(f"the GGUF file: {PREFIX}{key} is {value!r:.40}")
        return value

    def id(self, name: str) -> tuple[int, ...]:
        """Return the id of a special token, such as "eos", or nothing."""
        key = f"{name}_token_id"
        if key not in self.fields:
            return ()
        number = self.take(key, int)
        # llama.cpp, too, goes on without an id that is no token.
        return (number,) if 0 <= number < len(self.tokens) else ()

    def strays(self) -> tuple[str, ...]:
        """Return notes on special tokens whose ids are none."""
        given = {name: self.take(f"{name}_token_id", int, -1) for name in SPECIAL}
        return tuple(
            f"{PREFIX}{name}_token_id is {number}, which is no token, and is left out"
            for name, number in given.items()
            if number not in NO_TOKEN and not 0 <= number < len(self.tokens)
        )

    def added(self) -> dict[int, AddedToken]:
        """Return the tokens that are found in a text as they are, by id."""
        added = {}
        for number, (text, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)):
            if kind in (Kind.CONTROL, Kind.UNKNOWN):
                added[number] = AddedToken(text, special=True, normalized=False)
            elif kind is Kind.USER_DEFINED:
                added[number] = AddedToken(text, special=False, normalized=False)
        return added

    def usage(self, *, begins: bool, rows: int) -> tuple[Usage, tuple[str, ...]]:
        """Return how the model is used, and notes on ids that it has no row for.

        Args:
            begins: whether a prompt begins with BOS when the file does not say.
            rows: rows of the embedding.
        """
        start = self.id("bos") if self.take("add_bos_token", bool, begins) else ()
        turn = self.id("eot")
        notes: tuple[str, ...] = ()
        if not turn:
            turn = self._ends_by_name()
            names = [self.tokens[number] for number in turn]
            notes = (
                (f"a text ends at {listed(names)}, too, by the name, as in llama.cpp",)
                if turn
                else ()
            )
        start, start_notes = within(start, rows, "start")
        end, end_notes = within(self.id("eos") + turn + self.id("eom"), rows, "end")
        pad, pad_notes = within(self.id("padding"), rows, "padding")
        roles = {f"{role}_token": self.id(name) for role, name in ROLES.items()}
        special = {role: self.tokens[ids[0]] for role, ids in roles.items() if ids}
        usage = Usage(start, end, pad[0] if pad else None, special_tokens=special)
        return usage, (*notes, *self.strays(), *start_notes, *end_notes, *pad_notes)

    def _ends_by_name(self) -> tuple[int, ...]:
        """Return tokens whose names say that they end a turn, but for the file's own end."""
        return tuple(
            number
            for number, text in enumerate(self.tokens)
            if text in ENDS_OF_TURN
            and self.kinds[number] in (Kind.CONTROL, Kind.USER_DEFINED)
            and (number,) != self.id("eos")
        )


def _listed(fields: dict[str, Any], key: str, kind: type[T]) -> list[T]:
    value = fields.get(key)
    if not isinstance(value, list) or not all(type(one) is kind for one in value):
        raise CheckpointError(f"the GGUF file: {PREFIX}{key} is not a list of {kind.__name__}")
    return value


def _byte_level(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    pre = vocabulary.take("pre", str, "default")
    if pre not in SPLITS:
        raise CheckpointError(
            f"the GGUF file cuts texts in the way {quote(pre)} (tokenizer.ggml.pre), which is not "
            f"known; known are: {', '.join(SPLITS)}"
        )
    merges = [_pair(line) for line in _listed(vocabulary.fields, "merges", str)]
    ids = {text: number for number, text in enumerate(vocabulary.tokens)}
    split = SPLITS[pre]
    return byte_level_tokenizer(ids, merges, split, vocabulary.added()), split.begins


def _pair(line: str) -> tuple[str, str]:
    """Split a merge at its space; a token itself may begin with one."""
    place = line.find(" ", 1)
    if place < 0:
        raise CheckpointError(f"the GGUF file has the merge {quote(line)}, which is no pair")
    return line[:place], line[place + 1 :]


def _bpe_pieces(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    return _pieces(vocabulary, "bpe"), True


def _unigram_pieces(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    return _pieces(vocabulary, "unigram"), False


def _pieces(vocabulary: Vocabulary, algorithm: Literal["bpe", "unigram"]) -> Tokenizer:
    scores = _listed(vocabulary.fields, "scores", float)
    if len(scores) < len(vocabulary.tokens):
        raise CheckpointError(
            f"the GGUF file has {len(vocabulary.tokens):,} tokens, but {len(scores):,} scores"
        )
    kinds = list(vocabulary.kinds)
    if Kind.UNKNOWN not in kinds:
        (unknown,) = vocabulary.id("unknown") or (0,)  # 0 is llama.cpp's
        kinds[unknown] = Kind.UNKNOWN
    entries = zip(vocabulary.tokens, scores, kinds, strict=False)
    charsmap = vocabulary.fields.get("precompiled_charsmap", [])
    if not isinstance(charsmap, list) or not all(type(byte) is int for byte in charsmap):
        raise CheckpointError(f"the GGUF file: {PREFIX}precompiled_charsmap is no list of bytes")
    model = PieceModel(
        pieces=[Piece(text, score, kind) for text, score, kind in entries],
        algorithm=algorithm,
        # llama.cpp, too, puts a space before every part of a text between special tokens.
        prefix="every" if vocabulary.take("add_space_prefix", bool, True) else "none",
        remove_spaces=vocabulary.take("remove_extra_whitespaces", bool, False),
        charsmap=bytes(byte % 256 for byte in charsmap),
    )
    return piece_tokenizer(model, {})


BUILDERS = {"gpt2": _byte_level, "llama": _bpe_pieces, "t5": _unigram_pieces}
