"""Worker: OpenVINO on the stateful model that optimum-intel exports."""

import time
from pathlib import Path

import numpy as np
import openvino as ov
from worker import serve


class OpenVINO:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if format_name == "float32":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", settings)
        self.request = compiled.create_infer_request()
        self.inputs = {name for port in compiled.inputs for name in port.names}

    def _feed(self, ids: np.ndarray, past: int) -> np.ndarray:
        """Feed ids [B, T] after `past` tokens; return the most likely next ids [B, 1]."""
        rows, new = ids.shape
        values = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, past + new), dtype=np.int64),
            "position_ids": np.tile(np.arange(past, past + new), (rows, 1)),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        self.request.infer({name: values[name] for name in self.inputs}, share_inputs=True)
        logits = self.request.get_tensor("logits").data  # (B, 1, V)
        return logits[:, -1:].argmax(axis=-1)

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        self.request.reset_state()
        chosen = [self._feed(np.asarray(prompts), 0)]
        past = len(prompts[0])
        started = time.perf_counter()
        for step in range(tokens):
            chosen.append(self._feed(chosen[-1], past + step))
        seconds = time.perf_counter() - started
        return seconds, [int(token[0, 0]) for token in chosen]

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        ids = np.asarray([prompt])
        self.request.reset_state()
        started = time.perf_counter()
        token = self._feed(ids, 0)
        return time.perf_counter() - started, [int(token[0, 0])]


if __name__ == "__main__":
    serve(OpenVINO, ["openvino"])
