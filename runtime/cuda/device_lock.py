"""The lock for all work on the device that another thread must not come between."""

import threading

__all__ = ["DEVICE_LOCK"]

# While a CUDA graph is captured, what another thread puts on the same stream would be captured,
# too, and the wait of another thread would spoil the capture. So everything that touches the device
# takes this lock; the device does one thing at a time anyway.
DEVICE_LOCK = threading.RLock()
