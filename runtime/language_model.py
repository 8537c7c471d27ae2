"""The public face of the runtime: open a bundle, generate text, stream it, compute logits."""

from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle.bundle import Bundle
from .bundle.usage import Defaults, Usage
from .engines.base import Engine
from .engines.choice import open_engine
from .engines.options import EngineOptions
from .errors import EdgeGPTError, EngineError, InvalidInputError
from .generation.arguments import (
    Prompt,
    end_ids_of,
    sampling_of,
    seeds_of,
    stop_strings_of,
)
from .generation.begin import Begin, Beginnings, EncodedSources, Given
from .generation.loop import Overflow, Rules
from .generation.prefill import all_logits
from .generation.run import Result, Run, Stream
from .generation.score import score
from .generation.speculation import Pace
from .proof.receipt_store import warn_if_unproved
from .proof.tolerances import USUAL, tolerance_key, tolerance_of
from .text.tokenizer import Tokenizer
from .upgrade import with_upgrade

__all__ = ["LanguageModel", "load"]

DEFAULT_NEW_TOKENS = 200


class LanguageModel:
    """A bundle opened for generation. Safe to use from several threads; also a context manager."""

    def __init__(self, bundle: Bundle, engine: Engine, context: int | None = None) -> None:
        """Wrap an open engine; most callers use `edgegpt.load`."""
        self.bundle, self._engine = bundle, engine
        self._closed = False
        self._pace = Pace()
        info = bundle.manifest.model_info
        self.vocab_size = info.vocab_size
        self.context = _context(context, info.block_size)
        self.default_overflow: Overflow = "slide" if info.position == "learned" else "stop"
        key = tolerance_key(bundle.manifest.precision, tf32=engine.info.tf32)
        self.tolerance = min(tolerance_of(bundle, engine), USUAL[key])
        self._begin = Begin(bundle)
        self._prompts = self._begin.prompts
        if info.encoder is not None:
            self.default_overflow = "stop"

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = ...,
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
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Prompt],
        *,
        max_new_tokens: int = ...,
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
    ) -> list[Result]: ...

    def generate(
        self,
        prompt: Given,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
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
    ) -> Result | list[Result]:
        """Continue one prompt or a batch of prompts.

        Args:
            prompt: text, token ids, or what `apply_chat_template` returns; a list of texts or of
                lists of ids is a batch. Text begins with the `usage.start_ids`. The names of
                special tokens in it, such as "<|im_end|>", become their ids, from whomever they
                come; ids are taken as they are.
            max_new_tokens: at most this many tokens are added; 0 adds none.
            temperature: 0 takes the most likely token each time (ties: the lowest id); otherwise
                logits are divided by it before sampling. None, here and below: what
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

        Returns:
            One result, or a list of them in the order of the prompts.

        Raises:
            InvalidInputError: for an empty prompt, a character or an id that the vocabulary lacks,
                a prompt longer than the context with overflow "stop", or an impossible setting.
            NumericalError: if the model computes logits that are NaN or infinite.
            EngineError: if the engine fails, or the model was closed.
        """
        read = self._begin.read(self.engine, prompt)
        given = Defaults(temperature, top_k, top_p, min_p, repetition_penalty)
        ends = end_ids_of(self.usage, end_ids, ignore_eos=ignore_eos)
        rules = self._rules(max_new_tokens, given, stop, ends, overflow, speculate)
        run = self._run(read, seed, rules)
        for _ in run.pieces():
            pass
        results = run.results()
        return results[0] if read.single else results

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
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
    ) -> Stream:
        """Continue one prompt; iterating yields the text in pieces, each as soon as it is certain.

        Joined, the pieces are the `text` that `generate` returns for the same arguments. A piece
        never ends within a character. Arguments are checked at once; the model runs when a piece is
        requested. After the last piece, `.result` is what `generate` would have returned.
        """
        if self.tokenizer is None:
            raise InvalidInputError(
                "this bundle has no tokenizer, so there is no text to stream; use generate"
            )
        read = self._begin.read(self.engine, prompt)
        if not read.single:
            raise InvalidInputError("stream takes one prompt; generate takes a batch")
        given = Defaults(temperature, top_k, top_p, min_p, repetition_penalty)
        ends = end_ids_of(self.usage, end_ids, ignore_eos=ignore_eos)
        rules = self._rules(max_new_tokens, given, stop, ends, overflow, speculate)
        return Stream(self._run(read, seed, rules))

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
        try:
            array = np.asarray(ids)
        except ValueError as error:
            raise InvalidInputError("forward takes rows of equal length") from error
        if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
            raise InvalidInputError(
                f"forward takes whole numbers of shape [batch, tokens], not {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        if array.shape[1] > self.context:
            raise InvalidInputError(
                f"{array.shape[1]} tokens do not fit the context of {self.context}"
            )
        self._prompts.check_ids(array)
        state = self.engine.new_state(len(array), self.context)
        return all_logits(state, array.astype(np.int64))

    @property
    def engine(self) -> Engine:
        """The engine, as long as the model is open."""
        if self._closed:
            raise EngineError("the model was closed")
        return self._engine

    def close(self) -> None:
        """Free the engine. Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def __enter__(self) -> "LanguageModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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

    def _run(self, read: Beginnings, seed: int | Sequence[int] | None, rules: Rules) -> Run:
        """Return a call ready to run."""
        if rules.speculate and len(read.starts) != 1:
            raise InvalidInputError("speculate needs temperature 0 and a single prompt")
        self._prompts.check_ids(np.array(sorted(rules.end_ids)))
        seeds = seeds_of(seed, len(read.starts))
        for ids in read.starts:
            if rules.overflow == "stop" and len(ids) > self.context:
                raise InvalidInputError(
                    f"the prompt has {len(ids)} tokens and the context {self.context}; "
                    f"shorten it, or let the context slide"
                )
        texts = read.texts(seeds)
        return Run(self.engine, self.tokenizer, texts, rules, self._pace, read.sources)

    def _rules(
        self,
        max_new_tokens: int,
        given: Defaults,
        stop: str | Sequence[str] | None,
        end_ids: frozenset[int],
        overflow: Overflow | None,
        speculate: int,
    ) -> Rules:
        """Return the settings of a call, with the model's own for those that it leaves out."""
        if self._begin.sources is not None and (speculate or overflow is not None):
            name = "speculate" if speculate else "overflow"
            raise InvalidInputError(f"{name} is for models without an encoder; leave it out")
        return Rules(
            context=self.context,
            max_new_tokens=max_new_tokens,
            sampling=sampling_of(self.usage, given),
            overflow=self.default_overflow if overflow is None else overflow,
            tolerance=self.tolerance,
            stop=stop_strings_of(stop, have_text=self.tokenizer is not None),
            end_ids=end_ids,
            speculate=speculate,
        )


def load(
    bundle: str | Path,
    backend: str = "auto",
    context: int | None = None,
    *,
    threads: int | None = None,
    tf32: bool = False,
    cuda_graph: bool = True,
    upgrade: bool = True,
) -> LanguageModel:
    """Open a bundle for generation.

    Warns with `EdgeGPTWarning` if no receipt says that this version of the engine computes the
    bundle rightly, or if one says that it does not.

    Args:
        bundle: path of the folder that `edgegpt export` wrote.
        backend: "cpu" and "cuda" are ONNX Runtime's providers; "tensorrt" and "tensorrt-rtx" build
            an engine first; "auto" is "cuda" where it is installed and works, else "cpu".
        context: tokens that the cache holds, at most the model's block size (the default).
        threads: threads inside an operator; None lets the engine choose.
        tf32: let CUDA round float32 products to TF32, which has its own tolerance and receipts.
        cuda_graph: let CUDA replay decode steps as graphs; turn it off only for comparison.
        upgrade: with "auto", if TensorRT is installed and there is a GPU, use a TensorRT engine
            that was built and verified before. If there is none, build and verify one in a process
            of its own; the first generation after that uses it.

    Raises:
        BundleError: if the bundle is missing, damaged or of another format version.
        EngineError: if the backend is not installed or cannot run the bundle.
        InvalidInputError: if there is no such backend, or a number is impossible.
    """
    opened = Bundle.open(bundle)
    options = EngineOptions(backend, threads, tf32, cuda_graph)
    engine = first = open_engine(opened, options)
    try:
        if backend == "auto" and upgrade and not tf32:
            engine = with_upgrade(opened, first)
        model = LanguageModel(opened, engine, context)
    except EdgeGPTError:
        engine.close()
        raise
    warn_if_unproved(opened, first)
    return model


def _context(wanted: int | None, block_size: int) -> int:
    if wanted is None:
        return block_size
    if type(wanted) is not int or not 1 <= wanted <= block_size:
        raise InvalidInputError(f"context is {wanted}; the model can see 1 to {block_size} tokens")
    return wanted
