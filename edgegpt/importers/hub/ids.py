"""What a model on the Hub is called: `owner/model`, and a file of it `owner/model/file.gguf`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError

__all__ = ["HubId", "is_hub_id", "nothing_at"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
HUB_ID = re.compile(rf"({NAME}/{NAME})(?:/((?:{NAME}/)*{NAME}\.gguf))?")
ADDRESS = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface|hf)\.co/({NAME}/{NAME})"
    rf"(?:/(?:tree|blob|resolve)/([^/?]+)(?:/((?:{NAME}/)*{NAME}\.gguf))?)?(?:[/?].*)?"
)
COMMIT = 7  # characters of a commit's hash in a name, as git shortens it


@dataclass(frozen=True)
class HubId:
    """A model on the Hub.

    Attributes:
        repository: `owner/model`.
        file: the GGUF file that is meant; None: the model is the repository.
    """

    repository: str
    file: str | None = None

    @classmethod
    def of(cls, text: str) -> "HubId":
        """Read an id.

        Raises:
            CheckpointError: if it does not have the shape of one.
        """
        match = HUB_ID.fullmatch(text)
        if match is None:
            raise CheckpointError(
                f"{text!r:.200} is no Hub id: write owner/model, or owner/model/file.gguf"
            )
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return self.repository if self.file is None else f"{self.repository}/{self.file}"

    def with_commit(self, path: Path) -> str:
        """Return the id with the commit of what was downloaded, such as `owner/model@abcdef1`."""
        folder = path if self.file is None else path.parents[self.file.count("/")]
        return f"{self}@{folder.name[:COMMIT]}"


def is_hub_id(text: str) -> bool:
    """Return whether `text` has the shape of a Hub id and is no local path."""
    return HUB_ID.fullmatch(text) is not None and not os.path.lexists(text)


def nothing_at(text: str) -> str:
    """Return why `text`, which is neither a local path nor a Hub id, names no model."""
    address = ADDRESS.fullmatch(text)
    if address is not None:
        repository, revision, file = address.groups()
        name = repository if file is None else f"{repository}/{file}"
        option = "" if revision in (None, "main") else f" --revision {revision}"
        return f"{text:.200} is an address; a model on the Hub is named owner/model: {name}{option}"
    if re.fullmatch(NAME, text):
        return (
            f"no file at {text}, and a model on the Hub is named owner/model, as "
            f"openai-community/gpt2"
        )
    return f"no file at {text}"
