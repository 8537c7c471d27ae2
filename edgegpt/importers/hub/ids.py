"""What a model on the Hub is called: `owner/model`, and a file of it `owner/model/file.gguf`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError

__all__ = ["HubId", "is_hub_id"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
HUB_ID = re.compile(rf"({NAME}/{NAME})(?:/((?:{NAME}/)*{NAME}\.gguf))?")
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
