"""Type checks that the settings of a model and of a training run share."""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["LARGEST", "check_types", "from_table"]

LARGEST = 2**63 - 1  # of a whole number: the largest size of a tensor

Settings = TypeVar("Settings", bound="DataclassInstance")


def check_types(settings: "DataclassInstance") -> None:
    """Refuse a value that is not of its field's type, or is too large for a tensor; name it.

    A type is a Literal, a tuple (whose content is not checked), bool, int or float; a float field
    also accepts an int.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is tuple:
            if not isinstance(value, tuple):
                raise InvalidInputError(f"{name} is {value!r:.60}, which is not a tuple")
            continue
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                choices = ", ".join(get_args(hint))
                raise InvalidInputError(f"{name} is {value!r:.60}; choose one of: {choices}")
            continue
        accepted = (int, float) if hint is float else hint
        # To isinstance a bool is an int, but n_layer = true is a mistake.
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise InvalidInputError(
                f"{name} is {value!r:.60}, which is not of type {hint.__name__}"
            )
        if isinstance(value, int) and abs(value) > LARGEST:
            raise InvalidInputError(f"{name} is a whole number of more than 63 bits")


def from_table(kind: type[Settings], values: dict[str, Any], what: str) -> Settings:
    """Build settings from parsed JSON or TOML; the error names all unknown or missing keys.

    `what` is the kind of settings, for the error message: "model" or "training".
    """
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidInputError(f"unknown {what} setting: {', '.join(unknown)}")
    required = {name for name, field in known.items() if field.default is MISSING}
    missing = sorted(required - set(values))
    if missing:
        raise InvalidInputError(f"missing {what} setting: {', '.join(missing)}")
    return kind(**values)
