"""TensorRT, both flavours: a decoder on an NVIDIA GPU.

The sequence is the vendor's: deserialize the plan; make a context for prompts, and one for each
number of rows that is decoded; set its profile, addresses and shapes; run steps on a stream. The
cache is written in place where TensorRT promises this (see `writes_in_place`): a present output
then has the address of its past input. Results stay on the device until they are asked for.

Two builds of one graph may choose different kernels, so a receipt holds for one plan.
"""

import hashlib
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Graph
from ...cuda.device_lock import DEVICE_LOCK
from ...cuda.event_clock import EventClock
from ...cuda.memory import Cuda, Device, find_device
from ...errors import EngineError, InvalidInputError
from ...files import write_file
from ...quantity import quantity
from ..base import Engine, EngineInfo, Ids, Sources, State
from .flavour import writes_in_place
from .log import Log
from .network import data_type
from .prepare import Prepared
from .session import LoadedPlan, Session

__all__ = ["TensorRTEngine"]

DIGEST_LENGTH = 32  # bytes of a SHA-256
DIGITS = 8  # digits of a plan's SHA-256 in the name of a device


class TensorRTEngine(Engine):
    """A deserialized plan, whose weights all states share."""

    def __init__(
        self, prepared: Prepared, *, cuda_graph: bool = True, clock: EventClock | None = None
    ) -> None:
        """Load a plan.

        Args:
            prepared: the plan, whose bytes have been checked.
            cuda_graph: launch a decode step as one graph instead of kernel by kernel.
            clock: times the device's part of every step.

        Raises:
            EngineError: if there is no GPU, or TensorRT cannot load the plan.
        """
        self.graph = prepared.graph
        self.flavour, self.limits = prepared.flavour, prepared.engine.identity.limits
        self.cuda = Cuda()
        device = find_device(self.cuda)
        if device is None:
            raise EngineError(f"{self.flavour.backend} needs a GPU, and this machine shows none")
        self.device = device
        self.log = Log(self.flavour)
        self.runtime = self.log.make(self.flavour.module, "Runtime", self.log.logger)
        with DEVICE_LOCK:
            engine = self._deserialize(prepared)
        self.cache_file = _runtime_cache_file(prepared.engine.path, device)
        self.plan: LoadedPlan | None = LoadedPlan(
            flavour=self.flavour,
            log=self.log,
            engine=engine,
            graph=self.graph,
            limits=self.limits,
            runtime_cache=self.log.ask(
                self.flavour, "runtime_cache", engine, _read_checked(self.cache_file)
            ),
            cuda_graph=cuda_graph,
            clock=clock,
        )
        self.digest = prepared.engine.sha256[:DIGITS]
        self.idle: list[Session] = []  # at most one, so that memory does not pile up
        self.lock = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        """Name, version and device."""
        name = self.flavour.module.__name__
        device = f"{_as_file_name(self.device.name)} plan {self.digest}"
        return EngineInfo(name, self.flavour.version, device, 1)

    def new_state(self, rows: int, context: int, sources: Sources | None = None) -> "TensorRTState":
        """Return an empty cache for `rows` texts of up to `context` tokens.

        Raises:
            InvalidInputError: if the engine was built for fewer rows or tokens.
            EngineError: if the GPU has no room for the cache.
        """
        assert sources is None, "no encoder-decoder is opened with this engine"
        if self.plan is None:
            raise EngineError("the model was closed")
        if rows > self.limits.max_batch or context > self.limits.max_context:
            raise InvalidInputError(
                f"the engine was built for {quantity(self.limits.max_batch, 'row')} of "
                f"{quantity(self.limits.max_context, 'token')}, not for {rows} of {context}: "
                f"run edgegpt build with --backend {self.flavour.backend} "
                f"--max-batch {max(rows, 1)} --max-context {context}"
            )
        return TensorRTState(self, self._session(self.plan, rows), rows, context)

    def close(self) -> None:
        """Free the weights, and store the kernels compiled on the device for the next time."""
        with self.lock:
            plan, self.plan = self.plan, None
            idle, self.idle = self.idle, []
        while idle:
            idle.pop().close()
        if plan is None:
            return
        if plan.runtime_cache is not None:
            _write_checked(self.cache_file, bytes(self.log.make(plan.runtime_cache, "serialize")))
        with DEVICE_LOCK:
            del plan

    def give_back(self, session: Session) -> None:
        """Keep a session for the next state of as many rows or fewer, or free it."""
        with self.lock:
            if self.plan is not None and not self.idle:
                self.idle.append(session)
                return
        session.close()

    def _session(self, plan: LoadedPlan, rows: int) -> Session:
        with self.lock:
            session = self.idle.pop() if self.idle else None
        if session is not None and session.rows < rows:
            session.close()  # frees its memory before the new session allocates
            session = None
        if session is None:
            return Session(self.cuda, plan, rows)
        session.clear()
        return session

    def _deserialize(self, prepared: Prepared) -> Any:
        engine = self.log.ask(self.runtime, "deserialize_cuda_engine", prepared.engine.plan)
        if engine is None:
            raise EngineError(
                f"{self.flavour.name} cannot load {prepared.engine.path}: {self.log.last()}. "
                f"Remove the file, and it is built again"
            )
        module = self.flavour.module
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = engine.get_tensor_dtype(name)
            if engine.get_tensor_location(name) != module.TensorLocation.DEVICE:
                raise EngineError(f"{prepared.engine.path} wants {name} in the host's memory")
        ports = [*self.graph.inputs, *self.graph.outputs]
        if found != {port.name: data_type(self.flavour, port) for port in ports}:
            raise EngineError(f"{prepared.engine.path} has other inputs and outputs than its graph")
        if writes_in_place(self.graph):
            _check_aliases(engine, self.graph)
        return engine


class TensorRTState(State):
    """A cache in a session, which no other state uses until this one is closed.

    It has at most as many rows as the engine was built for (`--max-batch`).
    """

    def __init__(self, engine: TensorRTEngine, session: Session, rows: int, context: int) -> None:
        super().__init__(rows, context)
        self.engine, self.session = engine, session
        self.gathered: NDArray[np.float32] | None = None  # logits of a step that ran row by row
        self.drop = weakref.finalize(self, session.close)

    def logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, float32 [B, P, V]. Valid until the next step."""
        return self.session.logits() if self.gathered is None else self.gathered

    def is_one_step(self, past_len: Ids, first: int) -> bool:
        """Return whether the rows are run together; see `State`."""
        return self.session.caches.takes(first)

    def close(self) -> None:
        """Give the session back to the engine; the state must not be used afterwards."""
        if self.drop.detach() is not None:
            self.engine.give_back(self.session)

    def _run(self, ids: Ids, past_len: Ids, logit_positions: Ids, first: int) -> None:
        self._check_open()
        self.gathered = None
        if len(ids) == 1 or self.is_one_step(past_len, first):
            self.session.step(ids, past_len, logit_positions, first)
            return
        parts = []
        for row in range(len(ids)):
            part = slice(row, row + 1)
            self.session.step(ids[part], past_len[part], logit_positions[part], first + row)
            parts.append(self.session.logits().copy())
        self.gathered = np.concatenate(parts)

    def _decode(self, count: int, longest: int) -> None:
        self._check_open()
        self.gathered = None
        self.session.decode(self.next_ids[:count], self.past_len[:count])

    def _check_open(self) -> None:
        """End a text whose model was closed by another thread."""
        if self.engine.plan is None:
            raise EngineError("the model was closed")

    def _copy_rows(self, sources: list[int], targets: list[int], since: int, slots: int) -> None:
        self.session.copy_rows(sources, targets, since, slots)

    def _fill(self, cache: int, row: int, values: NDArray[np.float32]) -> None:
        self.session.fill(cache, row, values)


def _check_aliases(engine: Any, graph: Graph) -> None:
    """Check that TensorRT writes every present output into the memory of its past input."""
    for port in graph.caches():
        alias = engine.get_aliased_input_tensor(port.present)
        if alias != port.name:
            raise EngineError(f"the engine writes {port.present} into {alias}, not {port.name}")


def _as_file_name(device: str) -> str:
    """Return a device's name in a form that receipts can use."""
    return "".join(char if char.isalnum() or char in " .-_" else "_" for char in device)


def _runtime_cache_file(plan: Path, device: Device) -> Path:
    """Return the file beside the plan that keeps the kernels for this GPU and driver."""
    text = f"{device.name}\n{device.cuda_major}"
    return plan.with_suffix(f".{hashlib.sha256(text.encode()).hexdigest()[:8]}.kernels")


def _read_checked(path: Path) -> bytes | None:
    """Return the data that `_write_checked` wrote; None if the file is missing or damaged."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    digest, data = raw[:DIGEST_LENGTH], raw[DIGEST_LENGTH:]
    return data if hashlib.sha256(data).digest() == digest else None


def _write_checked(path: Path, data: bytes) -> None:
    """Write the hash of `data`, then `data`; keep nothing if the disk cannot be written."""
    try:
        write_file(path, hashlib.sha256(data).digest() + data)
    except OSError:
        return
