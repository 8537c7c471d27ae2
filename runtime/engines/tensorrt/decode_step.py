"""The step of one token per row, which generation repeats: first run plainly, then captured."""

import warnings
from typing import TYPE_CHECKING, Any

from ...cuda.device_lock import DEVICE_LOCK, no_collection
from ...errors import EdgeGPTWarning, EngineError

if TYPE_CHECKING:
    from .session import Session

__all__ = ["DecodeStep"]

INT64 = 8  # bytes


class DecodeStep:
    """One token for each of the first `rows`: run plainly once, then captured and launched.

    A plain run of the same shapes comes first, because TensorRT still does work on the host in the
    first run. The graph's copies read the host's buffers anew at every launch.
    """

    def __init__(self, session: "Session", context: Any, rows: int) -> None:
        """Bind `context`, a context of the decode profile that only this step uses."""
        self.session, self.context, self.rows = session, context, rows
        plan = session.plan
        self.captures = plan.cuda_graph and not plan.flavour.captures_itself
        self.runs = 0
        self.graph: Any = None
        sizes = {"batch": rows, "new_tokens": 1, "logit_positions": 1}
        session.bind(context, sizes, 0, session.zeros, session.single_logits[0])

    def run(self) -> None:
        """Run the inputs that the host's buffers hold."""
        session = self.session
        if self.captures and self.runs == 1:
            self._try_to_capture()
        if self.graph is not None:
            session.cuda.call("cudaGraphLaunch", self.graph, session.stream)
        else:
            self._enqueue()
        self.runs += 1

    def _enqueue(self) -> None:
        session = self.session
        for pointer, host in (session.ids, session.past_len):
            session.cuda.to_device(pointer, host, self.rows * INT64, session.stream)
        session.execute(self.context, 0, self.rows)

    def _try_to_capture(self) -> None:
        try:
            with DEVICE_LOCK, no_collection():
                self.graph = self._capture()
        except EngineError as error:
            told = f"steps run kernel by kernel, which is slower: they cannot be captured ({error})"
            warnings.warn(told, EdgeGPTWarning, stacklevel=2)

    def _capture(self) -> Any:
        session, call = self.session, self.session.cuda.call
        mode = session.cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        release = session.cuda.release
        call("cudaStreamBeginCapture", session.stream, mode)
        try:
            self._enqueue()
        except BaseException:  # a stream that stays in capture could not be used any more
            release("cudaStreamEndCapture", session.stream)
            session.cuda.forget_error()
            raise
        graph = call("cudaStreamEndCapture", session.stream)
        session.stack.callback(release, "cudaGraphDestroy", graph)
        executable = call("cudaGraphInstantiate", graph, 0)
        session.stack.callback(release, "cudaGraphExecDestroy", executable)
        return executable
