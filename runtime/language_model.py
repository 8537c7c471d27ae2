"""The public face of the runtime: generate text, and stream it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, overload

from .bundle.search import EarlyStopping, Search
from .bundle.usage import Defaults
from .errors import InvalidInputError
from .generation.arguments import Prompt
from .generation.beam_run import generated
from .generation.begin import Given
from .generation.grammar import Schema, form_of
from .generation.kept import KeptRow
from .generation.limits import Cancel, Limits
from .generation.loop import Overflow
from .generation.run import Run, Stream
from .generation.wanted import Wanted
from .generation.writing import Result
from .open_model import OpenModel
from .whole import whole

__all__ = ["LanguageModel"]


class LanguageModel(OpenModel):
    """A bundle opened for generation. Safe to use from several threads; also a context manager."""

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
        source_language: str | None = ...,
        target_language: str | None = ...,
        logprobs: int | None = ...,
        max_time: float | None = ...,
        cancel: Cancel | None = ...,
        json_schema: Schema | None = ...,
        regex: str | None = ...,
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
        source_language: str | None = ...,
        target_language: str | None = ...,
        logprobs: int | None = ...,
        max_time: float | None = ...,
        cancel: Cancel | None = ...,
        json_schema: Schema | None = ...,
        regex: str | None = ...,
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
        source_language: str | None = None,
        target_language: str | None = None,
        logprobs: int | None = None,
        max_time: float | None = None,
        cancel: Cancel | None = None,
        json_schema: Schema | None = None,
        regex: str | None = None,
    ) -> Result | list[Result]:
        """Continue one prompt or a batch of prompts.

        Args:
            prompt: text, token ids, or what `apply_chat_template` returns; a list of texts or of
                lists of ids is a batch. Of an encoder-decoder it is a source, or what `encode`
                returned. Text begins with the `usage.start_ids`. The names of
                special tokens in it, such as `<|im_end|>`, become their ids, from whomever they
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
            stop: a string, or several. The text ends as soon as one of them is complete. Its score
                in a search has all of its tokens, those of the stop string included.
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
                context is full; `speculate` and overflow "slide" are not for it.
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
            source_language: the code of a language, such as "eng_Latn", whose id belongs around a
                source of text, for models that know codes (`usage.source.languages`); default: the
                one in `usage.source`.
            target_language: the code of a language whose id is the first new token, likewise.
            logprobs: return the log-probability of each new token, and those of the `logprobs` most
                likely ones in its place, as `Result.logprobs`. They are the model's own, before
                penalties and temperature. None: none. Not for a search with beams; see `score`.
            max_time: seconds from the call on, after which no further step begins: texts end as
                they are then, with the reason "time", and a search with the best texts so far.
            cancel: a `threading.Event`, or what else has `is_set`. Once another thread has set it,
                texts end in the same way, with the reason "cancelled".
            json_schema: the text is JSON of this schema, given as an object or as JSON, with no
                white space between its parts; tokens that lead elsewhere are forbidden. It may end
                early by `max_new_tokens`. It needs llguidance, and is not for a search with beams.
            regex: the text is one that this regular expression matches as a whole; likewise.

        Returns:
            One result, or a list of them in the order of the prompts. With beams it is the best
            text, and there may be fewer than `num_return_sequences` if no more are possible.

        Raises:
            InvalidInputError: for an empty prompt, a character or an id that the vocabulary lacks,
                a prompt longer than the context with overflow "stop", or an impossible setting.
            NumericalError: if the model computes logits that are NaN or infinite.
            EngineError: if the engine fails, or the model was closed.
        """
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
            logprobs,
            Limits(max_time, cancel),
            form=form_of(json_schema, regex),
        )
        call = self.prepare(prompt, wanted, seed, source_language)
        results = generated(
            self.engine, self.tokenizer, call.texts, call.rules, self._pace, call.sources
        )
        return results[0] if call.single else results

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
        source_language: str | None = None,
        target_language: str | None = None,
        logprobs: int | None = None,
        max_time: float | None = None,
        cancel: Cancel | None = None,
        json_schema: Schema | None = None,
        regex: str | None = None,
        kept: KeptRow | None = None,
    ) -> Stream:
        """Continue one prompt; iterating yields the text in pieces, each as soon as it is certain.

        Joined, the pieces are the `text` that `generate` returns for the same arguments. A piece
        never ends within a character. Arguments are checked at once; the model runs when a piece is
        requested. After the last piece, `.result` is what `generate` would have returned.

        A text is written token by token, also if `usage.search` recommends beams: only a search
        that has ended knows the best text, so `num_beams` may be 1 at most.

        `kept` is a row of this model that keeps the tokens of its texts: those with which the next
        one begins are not computed again. Drafts (`speculate`) are not for it.
        """
        beams = 1 if num_beams is None else whole(num_beams)
        if type(beams) is int and beams > 1:
            raise InvalidInputError(
                f"a search of {beams} beams cannot be streamed: its best text is known only at the "
                f"end; use generate, or num_beams=1"
            )
        if self.tokenizer is None:
            raise InvalidInputError(
                "this bundle has no tokenizer, so there is no text to stream; use generate"
            )
        wanted = Wanted(
            Defaults(temperature, top_k, top_p, min_p, repetition_penalty),
            Search(
                num_beams=beams,
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
            logprobs,
            Limits(max_time, cancel),
            form=form_of(json_schema, regex),
        )
        call = self.prepare(prompt, wanted, seed, source_language)
        if not call.single:
            raise InvalidInputError("stream takes one prompt; generate takes a batch")
        if kept is not None and (call.sources is not None or speculate):
            name = "speculate" if speculate else "a source"
            raise InvalidInputError(f"{name} does not go with a kept row")
        run = Run(
            self.engine, self.tokenizer, call.texts, call.rules, self._pace, call.sources, kept
        )
        return Stream(run)

    def keep_row(self) -> KeptRow:
        """Return a row for `stream`, with the memory of one text."""
        if self._begin.sources is not None:
            raise InvalidInputError("a model with an encoder has no texts that go on")
        return KeptRow(self.engine, self.context)

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Result:
        """Answer a chat. What it has in common with the chat before it is not computed again.

        Calls from several threads are answered side by side, and only one of them uses what is
        there. `edgegpt.runtime.chat.Conversation` keeps a history, and streams.

        Args:
            messages: see `apply_chat_template`. Names of special tokens in them are text.
            tools: likewise.
            chat_template_kwargs: likewise, such as {"enable_thinking": False}.
            settings: of `stream`, by their names.

        Raises:
            InvalidInputError: as `apply_chat_template` and `stream` do.
        """
        prompt = self.apply_chat_template(
            messages,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
            special_tokens=False,
        )
        is_ours = self._chat_lock.acquire(blocking=False)
        try:
            if is_ours and self._chat_row is None:
                self._chat_row = self.keep_row()
            stream = self.stream(
                prompt, overflow="stop", kept=self._chat_row if is_ours else None, **settings
            )
            for _ in stream:
                pass
            return stream.result
        finally:
            if is_ours:
                self._chat_lock.release()
