"""What keeps other work away from the device while a CUDA graph is captured."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DEVICE_LOCK", "no_collection"]

# While a stream is captured, what another thread puts on it would be captured, too, and a wait for
# the whole device, such as the one at the end of a session, spoils the capture. So everything that
# touches the device takes this lock; the device does one thing at a time anyway.
DEVICE_LOCK = threading.RLock()


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch garbage collection off: a collected state would free memory, which ends a capture."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
