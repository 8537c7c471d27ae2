"""Where a model came from."""

from dataclasses import dataclass, fields
from typing import Any

from ..errors import BundleError
from .fields import only, text

__all__ = ["Source"]

LONGEST_FACT = 200  # characters


@dataclass(frozen=True)
class Source:
    """What an import knows about the origin of a model.

    Attributes:
        family: the architecture, such as "llama".
        name: what the source calls itself, such as a Hub id; None if it has no name.
        license: the name of its licence, such as "apache-2.0"; None if it names none.
    """

    family: str
    name: str | None = None
    license: str | None = None

    @classmethod
    def of(cls, entry: Any, where: str) -> "Source":
        """Read and check the JSON that `dataclasses.asdict` gives; `where` is its place.

        Raises:
            BundleError: for a value that is missing, unknown, no string, or unfit to be shown.
        """
        only(entry, [one.name for one in fields(cls)], where)
        optional = {
            key: None if entry[key] is None else _fact(entry[key], f"{where}: {key}")
            for key in ("name", "license")
        }
        return cls(family=_fact(entry["family"], f"{where}: family"), **optional)


def _fact(value: Any, where: str) -> str:
    fact = text(value, where)
    if not fact.isprintable() or not 1 <= len(fact) <= LONGEST_FACT:
        raise BundleError(
            f"{where} is {fact[:40]!r}; it must be one line of 1 to {LONGEST_FACT} printable "
            f"characters"
        )
    return fact
