"""The lock that everything takes which would spoil a CUDA graph that another thread captures."""

import threading

__all__ = ["DEVICE_LOCK"]

# While a CUDA graph is captured (in cudaStreamCaptureModeGlobal, which is what ONNX Runtime takes),
# a copy or an allocation in any other thread of the process fails and spoils the capture. So
# everything that touches the device waits here; the device does one thing at a time anyway.
DEVICE_LOCK = threading.RLock()
