"""TensorRT's log, the only source of reasons: its calls fail with just False, None or a crash."""

import logging
from collections import deque
from functools import cache
from itertools import count
from types import ModuleType
from typing import Any

from ...errors import EdgeGPTError, EngineError
from .flavour import Flavour

__all__ = ["Log"]

logger = logging.getLogger(__name__)

KEPT = 100  # most errors to keep
# cudaErrorInsufficientDriver, which every build without a GPU logs.
NO_DRIVER = "cudaError 35"


class Log:
    """The errors that TensorRT has logged since this object was made, and calls that raise them."""

    def __init__(self, flavour: Flavour) -> None:
        """Begin; the attribute `logger` is the one to pass to the vendor's objects."""
        self.flavour = flavour
        self.logger, self.errors, numbers = _logger(flavour.module)
        self.begin = next(numbers)

    def ask(self, thing: Any, name: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of `thing`.

        Raises:
            EngineError: if the method raises anything or returns False.
        """
        try:
            result = getattr(thing, name)(*arguments, **named)
        except EdgeGPTError:
            raise
        except Exception as error:  # the bindings raise several unrelated types
            raise EngineError(
                f"{self.flavour.name} failed in {name}: {error} ({self.last()})"
            ) from error
        if result is False:
            raise EngineError(f"{self.flavour.name} failed in {name}: {self.last()}")
        return result

    def make(self, thing: Any, name: str, *arguments: Any, **named: Any) -> Any:
        """Call a method that makes something: like `ask`, but None is also a failure."""
        made = self.ask(thing, name, *arguments, **named)
        if made is None:
            raise EngineError(f"{self.flavour.name} failed in {name}: {self.last()}")
        return made

    def last(self) -> str:
        """Return the last informative error, worded to fit into a sentence."""
        own = [text for number, text in list(self.errors) if number > self.begin]
        telling = [text for text in own if NO_DRIVER not in text] or own
        return telling[-1].strip() if telling else "it does not say why"


@cache
def _logger(module: ModuleType) -> tuple[Any, "deque[tuple[int, str]]", "count[int]"]:
    """Return the only logger of a flavour, the numbered errors it has kept, and the next numbers.

    TensorRT keeps the address of the first logger that it is given while any of its objects are in
    use. If that logger were freed before, TensorRT would call freed memory, so there is only one
    and it is never freed. It is called from any thread.
    """
    errors: deque[tuple[int, str]] = deque(maxlen=KEPT)
    numbers = count()
    severe = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, message: str) -> None:
            if severity in severe:
                errors.append((next(numbers), message))
                logger.debug("%s: %s", module.__name__, message)

    return Logger(), errors, numbers
