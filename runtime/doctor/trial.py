"""Try one piece of software in a process of its own, because it may crash, hang or print.

`main` prints each fact at once as a marked line of JSON, so that a crash does not lose earlier
facts. `told` reads these lines in the parent process.
"""

import ctypes
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["GRAPH", "MARK", "main", "told"]

MARK = "edgegpt-trial:"
# An ONNX model of one node, y = MatMul(x, x), float32 [2, 2], opset 13, IR version 7, as
# onnx.helper.make_model and SerializeToString give it. tests/runtime/doctor/test_doctor.py makes it
# again.
GRAPH = bytes.fromhex(
    "08073a400a110a01780a017812017922064d61744d756c1201745a130a0178120e0a0c080112080a0208020a0208"
    "0262130a0179120e0a0c080112080a0208020a02080242040a00100d"
)
X, Y = [[1.0, 2.0], [3.0, 4.0]], [[7.0, 10.0], [15.0, 22.0]]
# Attribute numbers for cuDeviceGetAttribute of the CUDA driver API: CU_DEVICE_ATTRIBUTE_INTEGRATED,
# _COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h).
INTEGRATED, MAJOR, MINOR = 18, 75, 76
NAME_LENGTH = 256


def main(piece: str, *names: str) -> None:
    """Print the facts about one piece of software; an exception becomes its `error`."""
    pieces: dict[str, Callable[..., None]] = {
        "provider": _provider,
        "tensorrt": _tensorrt,
        "bindings": _bindings,
        "gpus": _gpus,
    }
    try:
        pieces[piece](*names)
    except Exception as error:  # vendors raise anything
        _tell(error=f"{type(error).__name__}: {error}")


def told(output: str) -> dict[str, Any]:
    """Return the facts in the marked lines of a trial's output; unreadable lines are left out."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith(MARK):
            try:
                facts = json.loads(line[len(MARK) :])
            except ValueError:
                continue
            found.update(facts if isinstance(facts, dict) else {})
    return found


def _tell(**facts: Any) -> None:
    print(MARK + json.dumps(facts), flush=True)


def _provider(name: str) -> None:
    """Make a session of ONNX Runtime with one provider, and compute with it."""
    runtime = importlib.import_module("onnxruntime")
    _tell(version=runtime.__version__, available=runtime.get_available_providers())
    _tell(cuda=getattr(runtime, "cuda_version", None) or None)
    if name not in runtime.get_available_providers():
        return
    if name != "CPUExecutionProvider" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # finds the libraries of pip's nvidia-* packages
    options = runtime.SessionOptions()
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = runtime.InferenceSession(GRAPH, options, providers=[name])
    _tell(loaded=session.get_providers())
    x = importlib.import_module("numpy").array(X, dtype="float32")
    _tell(computed=session.run(["y"], {"x": x})[0].tolist() == Y)


def _tensorrt(module: str) -> None:
    """Import a TensorRT flavour and make a builder."""
    flavour = importlib.import_module(module)
    _tell(version=flavour.__version__)
    builder = flavour.Builder(flavour.Logger(flavour.Logger.ERROR))
    _tell(builder=builder is not None)


def _bindings() -> None:
    """Import the parts of cuda-bindings that the TensorRT engines use."""
    importlib.import_module("cuda.bindings.driver")
    importlib.import_module("cuda.bindings.runtime")
    _tell(imported=True)


def _gpus() -> None:
    """Ask the CUDA driver for its version and its devices, with nothing but ctypes."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
        _tell(cuda=version.value)  # 1000 * major + 10 * minor
    _succeed(driver, driver.cuInit(0))
    _succeed(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    _tell(gpus=[_gpu(driver, index) for index in range(count.value)])


def _gpu(driver: ctypes.CDLL, index: int) -> dict[str, Any]:
    """Describe one device. Asking for its free memory needs a context."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH)
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    _succeed(driver, driver.cuDeviceGet(ctypes.byref(device), index))
    _succeed(driver, driver.cuDeviceGetName(name, NAME_LENGTH, device))
    _succeed(driver, driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    try:
        _succeed(driver, driver.cuCtxSetCurrent(context))
        _succeed(driver, driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": [_attribute(driver, device, number) for number in (MAJOR, MINOR)],
        "integrated": _attribute(driver, device, INTEGRATED) == 1,
        "total": total.value,
        "free": free.value,
    }


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _succeed(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), number, device))
    return value.value


def _succeed(driver: ctypes.CDLL, code: int) -> None:
    if code != 0:
        words = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(words))
        raise OSError(f"CUDA error {code}: {(words.value or b'unknown').decode(errors='replace')}")
