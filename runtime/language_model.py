"""The public face of the runtime: generate text, stream it, compute logits."""

from collections.abc import Collection, Sequence
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle.bundle import Bundle
from .bundle.search import EarlyStopping, Search
from .bundle.usage import Defaults, Usage
from .engines.base import Engine
from .errors import EngineError, InvalidInputError
from .generation.arguments import Prompt, checked_ids, context_of
from .generation.beam_run import generated
from .generation.begin import Begin, EncodedSources, Given
from .generation.loop import Overflow
from .generation.prefill import all_logits
from .generation.run import Result, Run, Stream
from .generation.score import score
from .generation.speculation import Pace
from .generation.wanted import ModelFacts, Wanted
from .processes import Origin
from .proof.near_ties import tie_tolerance
from .text.tokenizer import Tokenizer

__all__ = ["LanguageModel"]


class LanguageModel:
    """A bundle opened for generation. Safe to use from several threads; also a context manager."""

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
        if info.encoder is not None:
            self.default_overflow = "stop"

    def __repr__(self) -> str:
        """Name the bundle and the engine."""
        engine = "closed" if self._closed else self._engine.info.name
        return f"<LanguageModel of {self.bundle!r}: {engine}, context {self.context}>"

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repetition_penalty: float | None = ...,
        seed: int | Sequence[int] | None = ...,
        stop: str | Sequence[str] | None = ...,
        end_ids: int | Collection[int] | None = ...,
        ignore_eos: bool = ...,
        overflow: Overflow | None = ...,
        speculate: int = ...,
        num_beams: int | None = ...,
        num_return_sequences: int | None = ...,
        length_penalty: float | None = ...,
        early_stopping: EarlyStopping | None = ...,
        no_repeat_ngram_size: int | None = ...,
        min_new_tokens: int | None = ...,
        forced_bos: int | None = ...,
        target_language: str | None = ...,
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        *,
        max_new_tokens: int | None = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float | None = ...,
        min_p: float | None = ...,
        repetition_penalty: float | None = ...,
        seed: int | Sequence[int] | None = ...,
        stop: str | Sequence[str] | None = ...,
        end_ids: int | Collection[int] | None = ...,
        ignore_eos: bool = ...,
        overflow: Overflow | None = ...,
        speculate: int = ...,
        num_beams: int | None = ...,
        num_return_sequences: int | None = ...,
        length_penalty: float | None = ...,
        early_stopping: EarlyStopping | None = ...,
        no_repeat_ngram_size: int | None = ...,
        min_new_tokens: int | None = ...,
        forced_bos: int | None = ...,
        target_language: str | None = ...,
    ) -> list[Result]: ...

    def generate(
        self,
        prompt: Given,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | Sequence[int] | None = None,
        stop: str | Sequence[str] | None = None,
        end_ids: int | Collection[int] | None = None,
        ignore_eos: bool = False,
        overflow: Overflow | None = None,
        speculate: int = 0,
        num_beams: int | None = None,
        num_return_sequences: int | None = None,
        length_penalty: float | None = None,
        early_stopping: EarlyStopping | None = None,
        no_repeat_ngram_size: int | None = None,
        min_new_tokens: int | None = None,
        forced_bos: int | None = None,
        target_language: str | None = None,
    ) -> Result | list[Result]:
        """Continue one prompt or a batch of prompts.

        Args:
            prompt: text, token ids, or what `apply_chat_template` returns; a list of texts or of
                lists of ids is a batch. Of an encoder-decoder it is a source, or what `encode`
                returned. Text begins with the `usage.start_ids`. The names of
                special tokens in it, such as "<|im_end|>", become their ids, from whomever they
                come; ids are taken as they are.
            max_new_tokens: at most this many tokens are added; 0 adds none. None, here and for
                `num_beams` and what follows it: what `usage.search` recommends, else 200.
            temperature: 0 takes the most likely token each time (ties: the lowest id); otherwise
                logits are divided by it before sampling. None, here and for the next four: what
                `usage.sampling` recommends, else 0.
            top_k: sample among the k most likely tokens only; 0, the default: among all tokens.
            top_p: sample among the fewest tokens whose probabilities reach this sum; default: 1.
            min_p: sample among tokens at least this likely relative to the likeliest; default: 0.
            repetition_penalty: above 1, tokens of the text so far become less likely; default: 1.
            seed: key of the random numbers, 0 to 2**64 - 1; None draws one, which the result holds.
                A prompt's draws depend on its seed and its own ids, not on its place in the batch:
                the same prompt twice under one seed gives the same text twice. A list gives each
                prompt its own seed.
            stop: a string, or several. The text ends as soon as one of them is complete.
            end_ids: token id, or several, that ends a text. It is the last of `token_ids`, and not
                part of the text. None: the `usage.end_ids`, which others replace.
            ignore_eos: go on after the `usage.end_ids`.
            overflow: when the text outgrows the context, "slide" goes on with its last part (see
                `edgegpt.runtime.generation.rows`), "stop" ends it. Default: "slide" for models with
                learned positions, "stop" for others.
            speculate: draft up to this many tokens, at most 15, from earlier parts of the text, and
                check them in one step. This is faster if the text repeats itself; drafting pauses
                while it is slower. Only for one prompt at temperature 0. In float32 the text is the
                same; with int8 and int4 it may differ from a near tie onwards.
            num_beams: texts that are followed side by side in search of the best one; 1, the
                default, goes on token by token. A search is as that of transformers (see
                `edgegpt.runtime.generation.beams`). It needs temperature 0, and ends when the
                context is full; `stop`, `speculate` and overflow "slide" are not for it.
            num_return_sequences: how many of the best texts to return, at most `num_beams`, as
                `hypotheses` of the result; default: 1.
            length_penalty: the power of the length by which the score of a text is divided: above 0
                favours long texts; default: 1.
            early_stopping: end a search as soon as there are `num_beams` texts (True), when a
                better one is unlikely (False, the default), or when there can be none ("never").
            no_repeat_ngram_size: no sequence of so many ids occurs twice, the prompt included; 0,
                the default: any may. This and what follows holds with any number of beams.
            min_new_tokens: an end id comes after so many new tokens at the earliest; default: 0.
            forced_bos: the first new token; default: none.
            target_language: the code of a language, such as "fra_Latn", whose id is the first new
                token, for models that know codes (`usage.source.languages`).

        Returns:
            One result, or a list of them in the order of the prompts. With beams it is the best
            text, and there may be fewer than `num_return_sequences` if no more are possible.

        Raises:
            InvalidInputError: for an empty prompt, a character or an id that the vocabulary lacks,
                a prompt longer than the context with overflow "stop", or an impossible setting.
            NumericalError: if the model computes logits that are NaN or infinite.
            EngineError: if the engine fails, or the model was closed.
        """
        read = self._begin.read(self.engine, prompt)
        wanted = Wanted(
            Defaults(temperature, top_k, top_p, min_p, repetition_penalty),
            Search(
                num_beams=num_beams,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                no_repeat_ngram_size=no_repeat_ngram_size,
                min_new_tokens=min_new_tokens,
                max_new_tokens=max_new_tokens,
                forced_bos=self._begin.first_token(forced_bos, target_language),
            ),
            num_return_sequences,
            stop,
            end_ids,
            ignore_eos,
            overflow,
            speculate,
        )
        rules = wanted.rules(self._facts())
        texts = self._begin.texts(read, seed, rules)
        results = generated(self.engine, self.tokenizer, texts, rules, self._pace, read.sources)
        return results[0] if read.single else results

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        end_ids: int | Collection[int] | None = None,
        ignore_eos: bool = False,
        overflow: Overflow | None = None,
        speculate: int = 0,
        num_beams: int | None = None,
        no_repeat_ngram_size: int | None = None,
        min_new_tokens: int | None = None,
        forced_bos: int | None = None,
        target_language: str | None = None,
    ) -> Stream:
        """Continue one prompt; iterating yields the text in pieces, each as soon as it is certain.

        Joined, the pieces are the `text` that `generate` returns for the same arguments. A piece
        never ends within a character. Arguments are checked at once; the model runs when a piece is
        requested. After the last piece, `.result` is what `generate` would have returned.

        A text is written token by token, also if `usage.search` recommends beams: only a search
        that has ended knows the best text, so `num_beams` may be 1 at most.
        """
        if num_beams not in (None, 1):
            raise InvalidInputError(
                f"a search of {num_beams!r:.60} beams cannot be streamed: its best text is known "
                f"only at the end; use generate, or num_beams=1"
            )
        if self.tokenizer is None:
            raise InvalidInputError(
                "this bundle has no tokenizer, so there is no text to stream; use generate"
            )
        read = self._begin.read(self.engine, prompt)
        if not read.single:
            raise InvalidInputError("stream takes one prompt; generate takes a batch")
        wanted = Wanted(
            Defaults(temperature, top_k, top_p, min_p, repetition_penalty),
            Search(
                num_beams=1,
                no_repeat_ngram_size=no_repeat_ngram_size,
                min_new_tokens=min_new_tokens,
                max_new_tokens=max_new_tokens,
                forced_bos=self._begin.first_token(forced_bos, target_language),
            ),
            None,
            stop,
            end_ids,
            ignore_eos,
            overflow,
            speculate,
        )
        rules = wanted.rules(self._facts())
        texts = self._begin.texts(read, seed, rules)
        return Stream(Run(self.engine, self.tokenizer, texts, rules, self._pace, read.sources))

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """Return a chat as a prompt for `generate` or `stream`, by the bundle's own template.

        The prompt is whole: nothing is put before it. Special tokens in the messages become their
        ids, as in every prompt: who must not write them has to be kept from it by the caller.

        Args:
            messages: dicts with a "role" and mostly a "content"; others as the template knows them.
            add_generation_prompt: end with the beginning of the model's answer.
            tools: JSON schemas of functions that the model may call.

        Raises:
            InvalidInputError: if the bundle has no template, if jinja2 is not installed, or if the
                messages are malformed or refused by the template.
            BundleError: if the template fails, or uses too much time or memory.
        """
        return self._prompts.render(messages, add_generation_prompt, tools)

    def encode(self, source: Prompt | Sequence[Prompt]) -> EncodedSources:
        """Return what the encoder makes of a source, or of several, for `generate` and `score`.

        These encode their sources themselves; this saves it where a source is used again. Text
        gets what the model wants around it (`usage.source`); ids are taken as they are.

        Raises:
            InvalidInputError: if the model has no encoder, or for an empty, impossible or too long
                source.
        """
        return self._begin.encode(self.engine, source)

    def score(
        self, prompt: Given, target: Prompt | Sequence[Prompt]
    ) -> list[float] | list[list[float]]:
        """Return the log-probability, in nats, of each token of a target after a prompt.

        Args:
            prompt: as for `generate`: text to go on from, or of an encoder-decoder a source.
            target: text, or ids as they are. Text for an encoder-decoder gets its end id. Several
                targets give a list of lists: each has its own prompt, or all have a single one.

        Raises:
            InvalidInputError: for prompts that `generate` refuses, an empty target, one that does
                not fit the context with its prompt, or targets that are not as many as prompts.
        """
        return score(self._begin, self.engine, self.context, prompt, target)

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

    def __enter__(self) -> "LanguageModel":
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
        return (self._begin.sources or self._prompts).encode(prompt)

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
        )
