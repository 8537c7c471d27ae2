"""The lock for all work that would spoil the capture of a CUDA graph in another thread."""

import threading

__all__ = ["DEVICE_LOCK"]

# While a CUDA graph is captured (in cudaStreamCaptureModeGlobal, which ONNX Runtime uses), a copy
# or an allocation in any other thread of the process fails and spoils the capture. So everything
# that touches the device takes this lock; the device does one thing at a time anyway.
DEVICE_LOCK = threading.RLock()
