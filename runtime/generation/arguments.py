"""Check the prompts, seeds and stop strings of a caller, and bring each into one form."""

import secrets
from collections.abc import Collection, Sequence, Set
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.usage import Defaults, Usage
from ..errors import InvalidInputError
from ..whole import whole
from .sampling import Sampling

__all__ = [
    "Prompt",
    "as_batch",
    "checked_ids",
    "context_of",
    "end_ids_of",
    "sampling_of",
    "seeds_of",
    "stop_strings_of",
]

Prompt = str | Sequence[int]
LARGEST_SEED = 2**64 - 1


def as_batch(prompt: object) -> tuple[list[Prompt], bool]:
    """Return the prompts of a call, and whether it was a single one."""
    prompt = _listed(prompt)
    if isinstance(prompt, str) or _are_ids(prompt):
        return [prompt], True
    if not isinstance(prompt, list):
        raise InvalidInputError(f"a prompt is text or a list of token ids, not {prompt!r:.60}")
    prompts = [_listed(part) for part in prompt]
    for part in prompts:
        if not (isinstance(part, str) or _are_ids(part)):
            raise InvalidInputError(f"a prompt is text or a list of token ids, not {part!r:.60}")
    return prompts, False


def stop_strings_of(stop: str | Sequence[str] | None, *, have_text: bool) -> tuple[str, ...]:
    """Return the stop strings of a call; `have_text` tells whether the bundle has a tokenizer."""
    if stop is not None and not isinstance(stop, str | Sequence):
        raise InvalidInputError(f"stop is {stop!r}; it must be a text or several")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) for text in stops):
        raise InvalidInputError(f"stop is {stop!r}; it must be a text or several")
    if stops and not have_text:
        raise InvalidInputError("this bundle has no tokenizer, so stop strings cannot be found")
    if "" in stops:
        raise InvalidInputError("a stop string is empty")
    return stops


def sampling_of(usage: Usage, given: Defaults) -> Sampling:
    """Return the settings of a call: those given, else the bundle's, else those of `Sampling`."""
    return Sampling(**usage.sampling.told() | given.told())


def end_ids_of(
    usage: Usage, end_ids: int | Collection[int] | None, *, ignore_eos: bool
) -> frozenset[int]:
    """Return the token ids that end a text: those given, else the bundle's if they count."""
    if not isinstance(ignore_eos, bool | np.bool_):
        raise InvalidInputError(f"ignore_eos is {ignore_eos!r:.60}; it must be True or False")
    if end_ids is None:
        return frozenset() if ignore_eos else frozenset(usage.end_ids)
    if isinstance(end_ids, Set):
        end_ids = list(end_ids)
    listed = _listed(end_ids)
    ids = listed if isinstance(listed, list) else [listed]
    if not _are_ids(ids):
        raise InvalidInputError(f"end_ids is {end_ids!r:.60}; it must be a token id or several")
    return frozenset(int(token) for token in ids)


def checked_ids(ids: ArrayLike, context: int) -> NDArray[np.int64]:
    """Return ids int64 [B, T], 1 <= T <= context; refuse what cannot be them."""
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise InvalidInputError("forward takes rows of equal length") from error
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidInputError(
            f"forward takes whole numbers of shape [batch, tokens], not {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    if array.shape[1] > context:
        raise InvalidInputError(f"{array.shape[1]} tokens do not fit the context of {context}")
    return array.astype(np.int64)


def context_of(wanted: int | None, block_size: int) -> int:
    """Return how many tokens the cache is to hold; None: as many as the model sees."""
    if wanted is None:
        return block_size
    wanted = whole(wanted)
    if type(wanted) is not int or not 1 <= wanted <= block_size:
        raise InvalidInputError(
            f"context is {wanted!r:.60}; the model can see 1 to {block_size} tokens"
        )
    return wanted


def seeds_of(seed: int | Sequence[int] | None, count: int) -> list[int]:
    """Return a seed for each of `count` prompts; None draws them."""
    if seed is None:
        return [secrets.randbits(63) for _ in range(count)]
    listed = _listed(seed)
    seeds = [whole(one) for one in (listed if isinstance(listed, list) else [listed] * count)]
    if len(seeds) != count:
        raise InvalidInputError(f"there are {len(seeds)} seeds for {count} prompts")
    for value in seeds:
        if type(value) is not int or not 0 <= value <= LARGEST_SEED:
            raise InvalidInputError(f"the seed {value!r} is not a whole number from 0 to 2**64 - 1")
    return seeds


def _listed(value: object) -> Any:
    """Return arrays, tensors, tuples and other sequences as lists; other values unchanged."""
    if isinstance(value, np.ndarray) or hasattr(value, "tolist"):
        return value.tolist()  # type: ignore[union-attr,unused-ignore]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return value


def _are_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(part, int | np.integer) and not isinstance(part, bool) for part in value
    )
