"""Where the texts of a call begin: after prompts, or, of an encoder-decoder, from sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..bundle.bundle import Bundle
from ..engines.base import Engine, Sources
from ..errors import InvalidInputError
from .arguments import Prompt, as_batch, seeds_of
from .loop import Rules
from .prefill import pad
from .prompts import Prompts
from .rows import Text, series_of
from .source_texts import SourceTexts

__all__ = ["DEFAULT_START", "Begin", "Beginnings", "EncodedSources", "Given", "Prepared"]

DEFAULT_START = 0  # the id that an encoder-decoder's texts begin with if its usage names none


class EncodedSources:
    """Sources that an encoder has read, for any number of texts that are made from them.

    They belong to the model that made them.

    Attributes:
        ids: the ids of each source.
        single: whether it is one source, not a list of them.
    """

    def __init__(self, engine: Engine, ids: Sequence[list[int]], *, single: bool) -> None:
        """Encode sources."""
        self.engine, self.ids, self.single = engine, list(ids), single
        self.sources: Sources = engine.encode(*pad(ids))


Given = Prompt | Sequence[Prompt] | EncodedSources


@dataclass(frozen=True)
class Beginnings:
    """The ids with which the texts of a call begin.

    Attributes:
        starts: the ids of each text so far.
        keys: ids that tell the random numbers of a text from another one's.
        sources: encodes the sources of the texts; None if the model takes none.
        single: whether the caller gave a single prompt or source.
    """

    starts: list[list[int]]
    keys: list[list[int]]
    sources: Callable[[], Sources] | None
    single: bool

    def texts(self, seeds: Sequence[int]) -> list[Text]:
        """Return the texts to write, each with its seed."""
        return [
            Text(list(start), seed=seed, series=series_of(key))
            for start, key, seed in zip(self.starts, self.keys, seeds, strict=True)
        ]


@dataclass(frozen=True)
class Prepared:
    """The texts of a call and its rules.

    Attributes:
        texts: what to write.
        rules: how.
        sources: encodes the sources of the texts; None if the model takes none.
        single: whether the caller gave a single prompt or source.
    """

    texts: list[Text]
    rules: Rules
    sources: Callable[[], Sources] | None
    single: bool


class Begin:
    """Reads the prompts or the sources of a call."""

    def __init__(self, bundle: Bundle) -> None:
        """Read the bundle's tokenizers."""
        self.prompts = Prompts(bundle)
        self.sources: SourceTexts | None = None
        if bundle.manifest.model_info.encoder is not None:
            self.sources = SourceTexts(bundle, self.prompts.usage, self.prompts.tokenizer)
        self.start = list(self.prompts.usage.start_ids) or [DEFAULT_START]

    def read(self, engine: Engine, given: Given, language: str | None = None) -> Beginnings:
        """Return where the texts of a call begin; nothing is computed yet.

        `language` is the code of that of the sources; None: the bundle's.

        Raises:
            InvalidInputError: if there is none, or one is empty, impossible or too long.
        """
        if isinstance(given, EncodedSources):
            if language is not None:
                raise InvalidInputError("source_language is for encode: these sources were read")
            if given.engine is not engine:
                raise InvalidInputError("these sources were encoded by another model")
            starts = [self.start] * len(given.ids)
            return Beginnings(starts, given.ids, lambda: given.sources, given.single)
        prompts, single = as_batch(given)
        if not prompts:
            raise InvalidInputError("there is no prompt")
        ids = [self.ids(prompt, language) for prompt in prompts]
        if self.sources is None:
            return Beginnings(ids, ids, None, single)
        starts = [self.start] * len(ids)
        return Beginnings(starts, ids, lambda: engine.encode(*pad(ids)), single)

    def ids(self, given: Prompt, language: str | None = None) -> list[int]:
        """Return the ids of a prompt, or of an encoder-decoder of a source in a `language`."""
        if self.sources is not None:
            return self.sources.encode(given, language)
        if language is not None:
            raise InvalidInputError("source_language is for models with an encoder")
        return self.prompts.encode(given)

    def texts(self, read: Beginnings, seed: int | Sequence[int] | None, rules: Rules) -> list[Text]:
        """Return the texts that a call writes, each with its seed.

        Raises:
            InvalidInputError: if the rules do not fit them, or there is a seed too many.
        """
        if rules.speculate and len(read.starts) != 1:
            raise InvalidInputError("speculate needs temperature 0 and a single prompt")
        self.prompts.check_ids(np.array(sorted(rules.end_ids)))
        seeds = seeds_of(seed, len(read.starts))
        for ids in read.starts:
            if rules.overflow == "stop" and len(ids) > rules.context:
                remedy = "" if rules.beams else ', or go on with its last part: overflow="slide"'
                raise InvalidInputError(
                    f"the prompt has {len(ids)} tokens and the context {rules.context}; "
                    f"shorten it{remedy}"
                )
        return read.texts(seeds)

    def first_token(self, forced_bos: int | None, language: str | None) -> int | None:
        """Return the first new token that a call asks for, by its id or by a language's code."""
        if language is None:
            return forced_bos
        if forced_bos is not None:
            raise InvalidInputError("forced_bos and target_language are both the first new token")
        if self.sources is None:
            raise InvalidInputError("target_language is for models with an encoder")
        return self.sources.language(language, "target_language")

    def encode(
        self, engine: Engine, source: Prompt | Sequence[Prompt], language: str | None
    ) -> EncodedSources:
        """Return what the encoder makes of a source, or of several."""
        if self.sources is None:
            raise InvalidInputError("this model has no encoder: it takes prompts, not sources")
        sources, single = as_batch(source)
        if not sources:
            raise InvalidInputError("there is no source")
        ids = [self.sources.encode(one, language) for one in sources]
        return EncodedSources(engine, ids, single=single)

    def target(self, target: Prompt, language: str | None) -> list[int]:
        """Return the ids of a text to score.

        Those of an encoder-decoder begin with the token that `generate` forces to be the first, as
        that of the `language`, and end with the end id.
        """
        first = self.first_token(None, language)
        if not isinstance(target, str):
            if first is not None:
                raise InvalidInputError(
                    "target_language is for targets of text; ids are taken as they are"
                )
            ids = [int(token) for token in target]
            if ids:
                self.prompts.check_ids(np.asarray(ids))
        elif self.prompts.tokenizer is None:
            raise InvalidInputError("this bundle has no tokenizer; give the target as token ids")
        else:
            ids = self.prompts.tokenizer.encode(target)
            if self.sources is not None:
                usage = self.prompts.usage
                first = usage.search.forced_bos if first is None else first
                ids = [*([] if first is None else [first]), *ids, *usage.end_ids[:1]]
        if not ids:
            raise InvalidInputError("the target is empty")
        return ids
