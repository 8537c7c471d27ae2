"""A bundle opened on an engine: what it knows and computes, short of generating."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle.bundle import Bundle
from .bundle.usage import Usage
from .engines.base import Engine
from .errors import EngineError, InvalidInputError
from .generation.arguments import Prompt, as_batch, checked_ids, context_of
from .generation.begin import Begin, EncodedSources, Given, Prepared
from .generation.grammar import Vocabulary
from .generation.kept import KeptRow
from .generation.loop import Overflow
from .generation.prefill import all_logits
from .generation.score import score
from .generation.speculation import Pace
from .generation.wanted import ModelFacts, Wanted
from .processes import Origin
from .proof.near_ties import tie_tolerance
from .text.chat_template import ChatPrompt, ChatTemplate
from .text.tokenizer import Tokenizer

__all__ = ["OpenModel"]

Own = TypeVar("Own", bound="OpenModel")


class OpenModel:
    """A bundle on an engine, until it is closed; also a context manager."""

    def __init__(self, bundle: Bundle, engine: Engine, context: int | None = None) -> None:
        """Wrap an open engine; most callers use `edgegpt.load`."""
        self.bundle, self._engine = bundle, engine
        self._closed, self._origin = False, Origin()
        self._pace = Pace()
        info = bundle.manifest.model_info
        self.vocab_size = info.vocab_size
        self.context = context_of(context, info.block_size)
        self.default_overflow: Overflow = "slide" if info.position == "learned" else "stop"
        self.tolerance = tie_tolerance(bundle, engine)
        self._begin = Begin(bundle)
        self._prompts = self._begin.prompts
        self._tokens: Vocabulary | None = None
        self._chat_row: KeptRow | None = None
        self._chat_lock = threading.Lock()
        if info.encoder is not None:
            self.default_overflow = "stop"

    def __repr__(self) -> str:
        """Name the bundle and the engine."""
        engine = "closed" if self._closed else self._engine.info.name
        return f"<{type(self).__name__} of {self.bundle!r}: {engine}, context {self.context}>"

    def prepare(
        self,
        given: Given,
        wanted: Wanted,
        seed: int | Sequence[int] | None,
        source_language: str | None = None,
    ) -> Prepared:
        """Return the texts of a call and its rules; nothing is computed yet.

        Raises:
            InvalidInputError: for an impossible prompt or setting; see `LanguageModel.generate`.
        """
        read = self._begin.read(self.engine, given, source_language)
        if isinstance(given, ChatPrompt):
            wanted = replace(wanted, shown=wanted.shown | self.shown_after(given))
        rules = wanted.rules(self._facts())
        return Prepared(self._begin.texts(read, seed, rules), rules, read.sources, read.single)

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        special_tokens: bool = True,
    ) -> ChatPrompt:
        """Return a chat as a prompt for `generate` or `stream`, by the bundle's own template.

        The prompt is whole: nothing is put before it.

        Args:
            messages: dicts with a "role" and mostly a "content"; others as the template knows them.
                What an answer of the model was thought over with is its "reasoning_content".
            add_generation_prompt: end with the beginning of the model's answer.
            tools: JSON schemas of functions that the model may call.
            chat_template_kwargs: more that the template knows by name, such as enable_thinking.
            special_tokens: whether names of special tokens in all of these become their ids, as in
                every prompt. False: they are text, so that who writes a message cannot end it, or
                speak for another role.

        Raises:
            InvalidInputError: if the bundle has no template, if jinja2 is not installed, or if the
                messages are malformed or refused by the template.
            BundleError: if the template fails, or uses too much time or memory.
        """
        return self._prompts.render(
            messages, add_generation_prompt, tools, special_tokens, chat_template_kwargs
        )

    @property
    def chat_template(self) -> ChatTemplate:
        """The bundle's template for chats.

        Raises:
            InvalidInputError: if it has none.
        """
        return self._prompts.template()

    def shown_after(self, prompt: ChatPrompt) -> frozenset[int]:
        """Return the special tokens that are text in the answer: marks of thoughts and of calls."""
        if self.tokenizer is None:
            return frozenset()
        ids = (self.tokenizer.added_id(name) for name in prompt.marks)
        return frozenset(token for token in ids if token is not None)

    def encode(
        self, source: Prompt | Sequence[Prompt], *, source_language: str | None = None
    ) -> EncodedSources:
        """Return what the encoder makes of a source, or of several, for `generate` and `score`.

        These encode their sources themselves; this saves it where a source is used again. Text
        gets what the model wants around it (`usage.source`), with the id of the `source_language`
        if a code is given; ids are taken as they are.

        Raises:
            InvalidInputError: if the model has no encoder, or for an empty, impossible or too long
                source.
        """
        return self._begin.encode(self.engine, source, source_language)

    def score(
        self,
        prompt: Given,
        target: Prompt | Sequence[Prompt],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[float] | list[list[float]]:
        """Return the log-probability, in nats, of each token of a target after a prompt.

        Args:
            prompt: as for `generate`: text to go on from, or of an encoder-decoder a source.
            target: text, or ids as they are. Text for an encoder-decoder gets the ids that
                `generate` gives it: the first one, if one is forced, and the end id. Several
                targets give a list of lists: each has its own prompt, or all have a single one.
            source_language: as for `generate`.
            target_language: as for `generate`: its id is the first of a target of text.

        Raises:
            InvalidInputError: for prompts that `generate` refuses, an empty target, one that does
                not fit the context with its prompt, or targets that are not as many as prompts.
        """
        languages = source_language, target_language
        return score(self._begin, self.engine, self.context, prompt, target, languages)

    def forward(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return logits, float32 [B, T, vocab_size], for int64 `ids` [B, T], T <= context."""
        if self._begin.sources is not None:
            raise InvalidInputError("forward is for models without an encoder; see score")
        array = checked_ids(ids, self.context)
        self._prompts.check_ids(array)
        return all_logits(self.engine.new_state(len(array), self.context), array)

    @property
    def engine(self) -> Engine:
        """The engine, as long as the model is open."""
        if self._closed:
            raise EngineError("the model was closed")
        self._origin.check()
        return self._engine

    def close(self) -> None:
        """Free the engine. Closing twice does nothing, nor does closing in a forked child."""
        if not self._closed:
            self._closed = True
            if self._origin.is_here:
                self._engine.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled or copied: an engine belongs to its process."""
        raise InvalidInputError(
            "an open model cannot be copied or sent to another process: each process opens the "
            "bundle itself, with edgegpt.load (as initializer of a pool, or in a spawned process)"
        )

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    @property
    def usage(self) -> Usage:
        """What the source of the model says about its use; the defaults of this model."""
        return self._prompts.usage

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if the bundle has one."""
        return self._prompts.tokenizer

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids that the model gets for a prompt, or of an encoder-decoder for a source.

        An empty or impossible one is refused.
        """
        prompts, single = as_batch(prompt)
        if not single:
            raise InvalidInputError(f"one prompt is encoded at a time, not {len(prompts)}")
        return (self._begin.sources or self._prompts).encode(prompts[0])

    def _facts(self) -> ModelFacts:
        """Return what the settings of a call depend on, beside the call."""
        return ModelFacts(
            usage=self.usage,
            context=self.context,
            vocab_size=self.vocab_size,
            overflow=self.default_overflow,
            tolerance=self.tolerance,
            have_text=self.tokenizer is not None,
            has_encoder=self._begin.sources is not None,
            named=self._prompts.named,
            vocabulary=None if self.tokenizer is None else self.vocabulary,
        )

    def vocabulary(self) -> Vocabulary:
        """Return the tokens as bytes, as grammars see them; it is made when it is first needed."""
        if self.tokenizer is None:
            raise InvalidInputError("this bundle has no tokenizer")
        if self._tokens is None:
            self._tokens = Vocabulary(self.tokenizer, self.vocab_size)
        return self._tokens
