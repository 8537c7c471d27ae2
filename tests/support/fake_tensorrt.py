"""A fake of TensorRT's runtime that enforces the documented rules, on a `FakeCuda`.

A context refuses to run without its profile, its workspace, every address and every shape, or with
memory that is too small.

A "plan" is JSON: the ports of a graph and its profiles. Running it works like `NullEngine`: the
cache holds ids, and the logits are computed from the ids that a token may see.
"""

import ctypes
import json
import math
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace

import numpy as np
from fake_cuda import FakeCuda

from edgegpt.runtime.bundle.manifest import Graph, Port
from edgegpt.runtime.engines.tensorrt.profiles import Limits, profiles

__all__ = ["fake_module", "fake_plan", "one_layer_graph"]

DTYPES = {"float32": np.float32, "int64": np.int64}
Network = Callable[[Sequence[int]], np.ndarray]


def one_layer_graph(vocab_size: int, lowering: str = "standard") -> Graph:
    """Return the ports of a decoder with one layer, two kv heads, and heads of width 1."""
    cache: list[int | str] = ["batch", 2, "context", 1]
    inputs = [
        Port("ids", "ids", "int64", ["batch", "new_tokens"]),
        Port("past_len", "past_len", "int64", ["batch"]),
        Port("logit_positions", "logit_positions", "int64", ["batch", "logit_positions"]),
        Port("past_k.0", "cache", "float32", cache, "present_k.0"),
        Port("past_v.0", "cache", "float32", cache, "present_v.0"),
    ]
    outputs = [
        Port("logits", "logits", "float32", ["batch", "logit_positions", vocab_size]),
        Port("present_k.0", "cache", "float32", cache),
        Port("present_v.0", "cache", "float32", cache),
    ]
    return Graph(f"decoder.{lowering}", "d.onnx", "decoder", lowering, 24, inputs, outputs)


def fake_plan(graph: Graph, limits: Limits) -> bytes:
    """Return the plan of a graph."""
    ports = [*graph.inputs, *graph.outputs]
    return json.dumps(
        {
            "dtypes": {port.name: port.dtype for port in ports},
            "inputs": [port.name for port in graph.inputs],
            "presents": {port.present: port.name for port in graph.caches()},
            "in_place": graph.lowering == "standard",
            "profiles": [profile.shapes for profile in profiles(graph, limits)],
            "vocab_size": graph.outputs[0].shape[-1],
        }
    ).encode()


def fake_module(name: str, version: str, cuda: FakeCuda, network: Network) -> ModuleType:
    """Return a module like `tensorrt` or `tensorrt_rtx` that can only run engines."""
    module = ModuleType(name)
    module.__version__ = version
    rtx = name == "tensorrt_rtx"

    class ILogger:
        INTERNAL_ERROR, ERROR = "INTERNAL_ERROR", "ERROR"

    class Runtime:
        def __init__(self, logger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            try:
                return Engine(json.loads(bytes(plan)))
            except ValueError:
                self.logger.log(ILogger.ERROR, "the magic tag is wrong")
                return None

    class Engine:
        contexts = 0

        def __init__(self, plan) -> None:
            self.plan, self.names = plan, list(plan["dtypes"])
            self.num_io_tensors = len(self.names)

        def get_tensor_name(self, index):
            return self.names[index]

        def get_tensor_dtype(self, name):
            return {"float32": "FLOAT", "int64": "INT64"}[self.plan["dtypes"][name]]

        def get_tensor_location(self, name):
            return "DEVICE"

        def get_aliased_input_tensor(self, name):
            return self.plan["presents"][name] if self.plan["in_place"] else None

        device_memory_size_v2 = 96

        def create_execution_context(self, how):
            if rtx:
                assert isinstance(how, RuntimeConfig)
                assert how.cache is not None, "no runtime cache"
                module.strategies.append(how.dynamic_shapes_kernel_specialization_strategy)
                assert how.dynamic_shapes_kernel_specialization_strategy in ("EAGER", "NONE")
                how = how.strategy
            assert how == "USER_MANAGED"
            module.contexts_made += 1
            return None if module.contexts_made in module.failing_contexts else Context(self)

        if rtx:

            def create_runtime_config(self):
                return RuntimeConfig()

    class RuntimeConfig:
        cache = strategy = None
        cuda_graph_strategy = "DISABLED"
        dynamic_shapes_kernel_specialization_strategy = "LAZY"

        def create_runtime_cache(self):
            return RuntimeCache()

        def set_runtime_cache(self, cache):
            self.cache = cache
            return True

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

    class RuntimeCache:
        content = b"no kernels"

        def deserialize(self, blob):
            self.content = bytes(blob)
            return True

        def serialize(self):
            return self.content + b"+"

    class Context:
        def __init__(self, engine) -> None:
            self.engine, self.plan = engine, engine.plan
            self.profile = self.workspace = None
            self.address: dict[str, int] = {}
            self.shape: dict[str, tuple[int, ...]] = {}
            self.inferred = self.warm = False

        def set_optimization_profile_async(self, number, stream):
            assert stream in cuda.streams
            assert self.profile is None, "the profile is switched"
            self.profile = number
            return True

        def set_device_memory(self, pointer, size):
            assert self.profile is not None, "no profile yet"
            assert size >= self.engine.device_memory_size_v2
            assert cuda.size_at(pointer) >= size
            self.workspace = pointer

        def set_tensor_address(self, name, pointer):
            if name not in self.engine.names:
                return False
            self.address[name] = pointer
            self.warm = False
            return True

        def set_input_shape(self, name, shape):
            assert self.profile is not None, "no profile yet"
            least, _, largest = self.plan["profiles"][self.profile][name]
            if len(shape) != len(least) or any(
                not low <= size <= high
                for low, size, high in zip(least, shape, largest, strict=True)
            ):
                return False
            self.shape[name] = tuple(shape)
            self.inferred = self.warm = False
            return True

        def infer_shapes(self):
            self.inferred = True
            return [name for name in self.plan["inputs"] if name not in self.shape]

        def execute_async_v3(self, stream):
            assert self.profile is not None
            assert self.workspace is not None
            assert self.inferred, "infer_shapes was not asked"
            if set(self.address) != set(self.engine.names):
                return False
            shapes = dict(self.shape)
            for present, past in self.plan["presents"].items():
                same = self.address[present] == self.address[past]
                assert same == self.plan["in_place"], f"{present} is at the wrong place"
                shapes[present] = shapes[past]
            rows, positions = shapes["logit_positions"]
            shapes["logits"] = (rows, positions, self.plan["vocab_size"])
            views = {name: self._view(name, shape) for name, shape in shapes.items()}
            if cuda.captured is not None and (not self.warm or module.refuses_capture):
                cuda.captured.append(None)
                return False
            self.warm = True
            module.executions.append((self.profile, shapes["ids"]))
            cuda.enqueue(stream, lambda: _compute(views, network))
            return True

        def _view(self, name, shape):
            dtype = np.dtype(DTYPES[self.plan["dtypes"][name]])
            size = math.prod(shape) * dtype.itemsize
            assert cuda.size_at(self.address[name]) >= size, f"{name} is too small"
            memory = (ctypes.c_byte * size).from_address(self.address[name])
            return np.frombuffer(memory, dtype=dtype).reshape(shape)

    module.ILogger, module.Runtime = ILogger, Runtime
    module.IKVCacheUpdateLayer = object
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="USER_MANAGED")
    module.TensorLocation = SimpleNamespace(DEVICE="DEVICE", HOST="HOST")
    module.DataType = SimpleNamespace(FLOAT="FLOAT", INT64="INT64")
    module.executions, module.refuses_capture = [], False
    module.strategies = []
    module.contexts_made, module.failing_contexts = 0, set()
    if rtx:
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(
            EAGER="EAGER", NONE="NONE"
        )
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="WHOLE_GRAPH_CAPTURE")
        module.ComputeCapability = SimpleNamespace(__members__={"SM89": 89, "CURRENT": 0})
    return module


def _compute(views: dict[str, np.ndarray], network: Network) -> None:
    ids, past_len, cache = views["ids"], views["past_len"], views["present_k.0"]
    assert not np.isnan(views["past_k.0"]).any(), "the cache was not cleared"
    cache[...] = views["past_k.0"]
    for row, past in enumerate(past_len):
        cache[row, :, past : past + ids.shape[1], 0] = ids[row]
        for place, position in enumerate(views["logit_positions"][row]):
            seen = cache[row, 1, : past + position + 1, 0]
            views["logits"][row, place] = network([int(token) for token in seen])
