"""Prefixes with a name: what chats or texts begin with is fed once, and kept on disk."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import TEMPLATE_NAME
from ..errors import DataError, EdgeGPTWarning, EngineError, InvalidInputError
from ..generation.prefix_store import PrefixStore
from ..generation.rows import Text
from ..generation.shared_rows import SharedRows
from ..language_model import LanguageModel

__all__ = ["Kept", "keep", "prefix_ids"]


@dataclass(frozen=True)
class Kept:
    """What became of a prefix.

    Attributes:
        tokens: of how many it is.
        size: of its file, in bytes; 0: it could not be written.
        fed: whether it had to be fed.
        seconds: how long that, or reading it, took.
    """

    tokens: int
    size: int
    fed: bool
    seconds: float


def prefix_ids(model: LanguageModel, text: str) -> list[int]:
    """Return the ids that chats with `text` as the system's message begin with.

    Where the bundle has no chat template: those of texts that begin with it.
    """
    if not model.bundle.has(TEMPLATE_NAME):
        return model.encode_prompt(text)
    letters = list(dict.fromkeys("".join(text.split())))[:2]  # which the vocabulary surely has
    system = {"role": "system", "content": text}
    chats = [[system, {"role": "user", "content": one}] for one in letters]
    prompts = [model.apply_chat_template(chat, special_tokens=False) for chat in chats]
    places = zip(*(model.encode_prompt(one) for one in prompts), strict=False)
    return [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, places)]


def keep(model: LanguageModel, store: PrefixStore, text: str) -> Kept:
    """Have a prefix in the store: feed it if it is not there. A file that cannot be written warns.

    Raises:
        InvalidInputError: if it is empty, has no room in the context, or the template refuses it.
        EngineError: if the engine cannot give what it has fed.
    """
    begin = time.perf_counter()
    ids = prefix_ids(model, text) if text else []
    if not 2 <= len(ids) < model.context:
        raise InvalidInputError(
            f"a prefix of {len(ids)} tokens cannot be kept: it must have 2 or more, and fewer than "
            f"the context of {model.context}"
        )
    prefix, fed = store.find(ids), False
    if prefix is None:
        fed = True
        try:
            prefix = store.write(ids, _fed(model, ids))
        except DataError as error:
            told = f"a prefix is not kept, and the next start is as slow: {error}"
            warnings.warn(told, EdgeGPTWarning, stacklevel=2)
    size = 0 if prefix is None else prefix.path.stat().st_size
    return Kept(len(ids), size, fed, time.perf_counter() - begin)


def _fed(model: LanguageModel, ids: Sequence[int]) -> list[NDArray[np.float32]]:
    """Feed a prefix, as a text that begins with it is fed; return its keys and values."""
    engine = model.engine
    with engine.new_state(1, engine.slots(len(ids), model.context)) as state:
        try:
            state.past(0)
        except EngineError as error:
            name = f"{engine.info.name} on {engine.info.device}"
            raise EngineError(
                f"prefixes cannot be kept with {name}: {error}; use --backend cpu or native"
            ) from error
        rows = SharedRows(state)
        rows.admit(Text(list(ids), seed=0, series=0))
        while not rows.feed():
            pass
        return state.past(len(ids))
