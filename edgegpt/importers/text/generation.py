"""How a Hugging Face folder says that a text ends, and how it wants to be sampled."""

import math
from pathlib import Path
from typing import Any

from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.bundle.usage import Defaults

from ...errors import BundleError, CheckpointError
from ...user_files import is_file, read_json

__all__ = ["Generation", "read_generation"]


MOST_IDS = 256  # that a source may give one role

# What transformers takes where a file that asks for sampling says nothing or null
# (GenerationConfig._get_default_generation_params of transformers 5).
USUAL_TEMPERATURE, USUAL_TOP_K = 1.0, 50

# Settings of the search that have the same names there, and the values that change nothing.
SEARCHED = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "max_new_tokens",
)
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}

# Settings that change the text in transformers, and that generation here does not have. Each has
# the values that change nothing, beside null. How long a text gets is the caller's to say.
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "guidance_scale": (1,),
    "min_length": (0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ([], {}),
    "stop_strings": ([], ""),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "watermarking_config": (),
}
# Those of them that an encoder-decoder does have.
DONE_IN_PAIRS = ("forced_bos_token_id", "min_length")
# Those that matter only where the file asks for sampling.
NOT_DONE_IN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "typical_p": (1,),
}


class Generation:
    """generation_config.json and, where it says nothing, config.json."""

    def __init__(self, generation: dict[str, Any], config: dict[str, Any], where: str) -> None:
        """Take the two files' content; `where` is the file of the first one, for messages."""
        self.generation, self.where = generation, where
        self.tables = [generation, config, _text_part(config)]

    def ids(self, key: str, tables: list[dict[str, Any]] | None = None) -> tuple[int, ...]:
        """Return the ids under `key`: a number, a list of numbers, or nothing.

        The first of the `tables` that has some counts; None: of all. Negative ids mean none, as
        OPT's and Llama's older files write it.
        """
        for table in self.tables if tables is None else tables:
            value = table.get(key)
            listed = value if isinstance(value, list) else [] if value is None else [value]
            if len(listed) > MOST_IDS or not all(type(number) is int for number in listed):
                raise CheckpointError(f"{key} is {value!r:.60}; it must be a token id or several")
            found = tuple(dict.fromkeys(number for number in listed if number >= 0))
            if found:
                return found
        return ()

    def sampling(self) -> Defaults:
        """Return the default sampling.

        transformers samples only if do_sample is true; else temperature, top_k, top_p and min_p
        are without effect there, and are no defaults here.
        """
        penalty = self._number("repetition_penalty", above=0.0)
        kept = penalty if penalty != 1.0 else None
        if not self._samples:
            return Defaults(repetition_penalty=kept)
        temperature = self._number("temperature", least=0.0)
        top_k = self._number("top_k", least=0.0)
        top_p = self._number("top_p", above=0.0, most=1.0)
        min_p = self._number("min_p", least=0.0, most=1.0)
        if top_k is not None and top_k != int(top_k):
            raise CheckpointError(f"{self.where}: top_k is {top_k}, not a whole number")
        return Defaults(
            temperature=USUAL_TEMPERATURE if temperature is None else temperature,
            top_k=USUAL_TOP_K if top_k is None else int(top_k) or None,
            top_p=top_p if top_p != 1.0 else None,
            min_p=min_p or None,
            repetition_penalty=kept,
        )

    def search(self, *, starts: int = 0) -> Search:
        """Return the settings of the search.

        `starts` is the number of ids that a decoder begins with, which `min_length` and
        `max_length` count, too; 0: it is no encoder-decoder, and they count the prompt.
        """
        told: dict[str, Any] = {name: self.generation.get(name) for name in SEARCHED}
        if starts:
            for new, whole in (("min_new_tokens", "min_length"), ("max_new_tokens", "max_length")):
                length = self.generation.get(whole)
                if told[new] is None and type(length) is int and length > starts:
                    told[new] = length - starts
            told["forced_bos"] = self._forced("forced_bos_token_id")
        else:
            told["forced_bos"] = None
        told["forced_eos"] = self._forced("forced_eos_token_id")
        told["bad_words"] = self._bad_words()
        told |= {name: None for name, value in NEUTRAL.items() if told[name] == value}
        try:
            return Search.of(told, self.where)
        except BundleError as error:
            raise CheckpointError(str(error)) from error

    def _forced(self, key: str) -> int | None:
        """Return an id that is forced; None if there are several, of which any may come."""
        ids = self.ids(key, self.tables[:1])
        return ids[0] if len(ids) == 1 else None

    def _bad_words(self) -> list[Any]:
        """Return the sequences that never occur; transformers takes an end id for none."""
        words = self.generation.get("bad_words_ids") or []
        if not isinstance(words, list):
            raise CheckpointError(f"{self.where}: bad_words_ids is {words!r:.60}, not a list")
        ends = [[token] for token in self.ids("eos_token_id")]
        return [word for word in words if word not in ends]

    def notes(self, *, pair: bool = False) -> tuple[str, ...]:
        """Return a note on the settings that change the text and are not done here, if any."""
        known = NOT_DONE | (NOT_DONE_IN_SAMPLING if self._samples else {})
        left = [
            name
            for name, neutral in sorted(known.items())
            if (value := self.generation.get(name)) is not None and value not in neutral
            if not (pair and name in DONE_IN_PAIRS)
        ]
        if len(self.ids("forced_eos_token_id", self.tables[:1])) > 1:
            left.append("forced_eos_token_id")
        names = ", ".join(left)
        return (f"left out of {self.where}, so that texts may differ: {names}",) if left else ()

    @property
    def _samples(self) -> bool:
        return self.generation.get("do_sample") is True

    def _number(
        self,
        key: str,
        least: float = -math.inf,
        above: float = -math.inf,
        most: float = math.inf,
    ) -> float | None:
        value = self.generation.get(key)
        if value is None:
            return None
        number = float(value) if type(value) in (int, float) and abs(value) < 2**63 else math.nan
        if not (least <= number <= most and number > above):  # false for NaN
            raise CheckpointError(f"{self.where}: {key} is {value!r:.60}")
        return number


def read_generation(folder: Path, config: dict[str, Any]) -> Generation:
    """Read generation_config.json of `folder`; `config` is its config.json.

    Where there is none, config.json counts, as in transformers: older folders have it all there.
    """
    path = folder / "generation_config.json"
    if is_file(path):
        return Generation(read_json(path), config, str(path))
    tables = (_text_part(config), config)  # the latter counts more
    given = {key: value for table in tables for key, value in table.items() if value is not None}
    return Generation(given, config, str(folder / "config.json"))


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a larger model's text part, which are nested in its own."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}
