"""Worker: ONNX Runtime GenAI."""

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from worker import serve


class GenAI:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        config = og.Config(str(folder))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = og.Model(config)

    def _generator(self, rows: int, length: int) -> og.Generator:
        params = og.GeneratorParams(self.model)
        # min_length masks the end token, so that every row runs to the end.
        params.set_search_options(
            batch_size=rows, min_length=length, max_length=length, do_sample=False
        )
        return og.Generator(self.model, params)

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        width = len(prompts[0])
        generator = self._generator(len(prompts), width + tokens + 1)
        generator.append_tokens(np.asarray(prompts, dtype=np.int32))
        generator.generate_next_token()  # uses the prompt's logits; no step of the model
        started = time.perf_counter()
        for _ in range(tokens):
            generator.generate_next_token()
        seconds = time.perf_counter() - started
        ids = generator.get_sequence(0)[width:]
        if len(ids) != tokens + 1:
            raise RuntimeError(f"{len(ids)} tokens came out, not {tokens + 1}")
        return seconds, [int(token) for token in ids]

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        generator = self._generator(1, len(prompt) + 1)
        ids = np.asarray([prompt], dtype=np.int32)
        started = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        seconds = time.perf_counter() - started
        return seconds, [int(generator.get_sequence(0)[-1])]


if __name__ == "__main__":
    serve(GenAI, ["onnxruntime-genai", "onnxruntime"])
