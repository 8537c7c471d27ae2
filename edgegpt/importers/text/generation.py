"""How a Hugging Face folder says that a text ends, and how it wants to be sampled."""

import math
from pathlib import Path
from typing import Any

from edgegpt.runtime.bundle.usage import Defaults

from ...errors import CheckpointError
from .files import read_json

__all__ = ["Generation", "read_generation"]


MOST_IDS = 256  # that a source may give one role


class Generation:
    """generation_config.json and, where it says nothing, config.json."""

    def __init__(self, generation: dict[str, Any], config: dict[str, Any]) -> None:
        """Take the two files' content; the text part of a larger model's config comes last."""
        inner = config.get("text_config")
        self.tables = [generation, config, inner if isinstance(inner, dict) else {}]
        self.generation = generation

    def ids(self, key: str) -> tuple[int, ...]:
        """Return the ids under `key`: a number, a list of numbers, or nothing.

        Negative ids mean none, as OPT's and Llama's older files write it.
        """
        for table in self.tables:
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
        are without effect there, and are no defaults here. Its own defaults (temperature 1) count
        only where the file asks for sampling, and top_k 50 never: the file does not say it.
        """
        penalty = self._number("repetition_penalty", above=0.0)
        kept = penalty if penalty != 1.0 else None
        if self.generation.get("do_sample") is not True:
            return Defaults(repetition_penalty=kept)
        temperature = self._number("temperature", least=0.0)
        top_k = self._number("top_k", least=0.0)
        top_p = self._number("top_p", above=0.0, most=1.0)
        min_p = self._number("min_p", least=0.0, most=1.0)
        if top_k is not None and top_k != int(top_k):
            raise CheckpointError(f"generation_config.json: top_k is {top_k}, not a whole number")
        return Defaults(
            temperature=1.0 if temperature is None else temperature,
            top_k=int(top_k) if top_k else None,
            top_p=top_p if top_p != 1.0 else None,
            min_p=min_p or None,
            repetition_penalty=kept,
        )

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
            raise CheckpointError(f"generation_config.json: {key} is {value!r:.60}")
        return number


def read_generation(folder: Path, config: dict[str, Any]) -> Generation:
    """Read generation_config.json of `folder`, if there is one; `config` is its config.json."""
    return Generation(read_json(folder / "generation_config.json"), config)
