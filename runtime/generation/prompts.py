"""Turn prompts into ids, the way the model's source wants it: text, ids, or a chat."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.bundle import LARGEST_TEMPLATE, TEMPLATE_NAME, TOKENIZER_NAME, Bundle
from ..bundle.usage import Usage
from ..errors import BundleError, InvalidInputError
from ..text.chat_template import ChatPrompt, ChatTemplate
from ..text.thoughts import OPEN as THOUGHTS
from ..text.tokenizer import Tokenizer
from .arguments import Prompt

__all__ = ["Prompts"]


class Prompts:
    """The tokenizer and the chat template of a bundle, and what it says about its use."""

    def __init__(self, bundle: Bundle) -> None:
        """Read the tokenizer, if there is one; the template is read when it is first used."""
        self.bundle = bundle
        self.usage = bundle.manifest.usage or Usage()
        self.vocab_size = bundle.manifest.model_info.vocab_size
        self.tokenizer: Tokenizer | None = None
        self.named: int | None = None  # ids from here on have no text; None: there is no tokenizer
        if bundle.has(TOKENIZER_NAME):
            file = bundle.file(TOKENIZER_NAME)
            self.tokenizer = Tokenizer(file.read_bytes(), self.vocab_size)
            self.named = self.tokenizer.reach(self.vocab_size)
        self._thinks = False  # whether the vocabulary has a mark of thoughts
        if self.tokenizer is not None:
            self._thinks = self.tokenizer.added_id(THOUGHTS) is not None
        self._lock = threading.Lock()
        self._template: ChatTemplate | None = None

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt; refuse an empty or impossible one.

        Text begins with the start ids of the bundle, unless its own ids do, or it is a chat. Ids
        are taken as they are.
        """
        if not isinstance(prompt, str):
            ids = [int(token) for token in prompt]
            if ids:
                self.check_ids(np.asarray(ids))
        elif self.tokenizer is None:
            raise InvalidInputError("this bundle has no tokenizer; give the prompt as token ids")
        else:
            quoted = prompt.quoted if isinstance(prompt, ChatPrompt) else ()
            ids, start = self.tokenizer.encode(prompt, quoted), list(self.usage.start_ids)
            if not isinstance(prompt, ChatPrompt) and ids[: len(start)] != start:
                ids = start + ids
        if not ids:
            raise InvalidInputError("the prompt is empty; the model needs at least one token")
        return ids

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] | None,
        special_tokens: bool,
        variables: Mapping[str, Any] | None,
    ) -> ChatPrompt:
        """Return a chat as a prompt, put together by the bundle's template."""
        names = [] if special_tokens or self.tokenizer is None else self.tokenizer.special_names
        return self.template().render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
            names=names,
            thinks=self._thinks,
        )

    def template(self) -> ChatTemplate:
        """Return the bundle's chat template.

        Raises:
            InvalidInputError: if there is none.
        """
        with self._lock:
            if self._template is None:
                self._template = self._read_template()
        return self._template

    def check_ids(self, ids: NDArray[np.integer]) -> None:
        """Refuse an id that is not in the vocabulary."""
        bad = ids[(ids < 0) | (ids >= self.vocab_size)]
        if bad.size:
            raise InvalidInputError(
                f"the token id {int(bad.flat[0])} is not in the vocabulary of {self.vocab_size}"
            )

    def _read_template(self) -> ChatTemplate:
        if not self.bundle.has(TEMPLATE_NAME):
            raise InvalidInputError(
                f"{self.bundle.folder} has no chat template: its source brought none"
            )
        path = self.bundle.file(TEMPLATE_NAME)
        if self.bundle.manifest.files[TEMPLATE_NAME].size > LARGEST_TEMPLATE:
            raise BundleError(f"{path} is larger than {LARGEST_TEMPLATE:,} bytes")
        try:
            text = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"cannot read {path}: {error}") from error
        return ChatTemplate(text, str(path), self.usage.special_tokens)
