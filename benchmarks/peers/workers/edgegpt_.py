"""Worker: edgegpt through its public interface, sampling and bookkeeping included."""

import sys
from pathlib import Path

from worker import serve

import edgegpt

# Backend -> the distribution that it runs on.
ENGINES = {
    "": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}


class EdgeGPT:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        _, _, backend = format_name.partition(" ")  # "int4", or "float16 tensorrt"
        on_gpu = bool(backend)
        self.lm = edgegpt.load(folder, backend or "cpu", threads=None if on_gpu else threads)

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        # The prompt's step gives the first token, so `tokens` more steps follow it.
        results = self.lm.generate(
            prompts, max_new_tokens=tokens + 1, temperature=0, ignore_eos=True
        )
        timings = results[0].timings
        return timings.total_s - timings.first_token_s, list(results[0].token_ids)

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        result = self.lm.generate(prompt, max_new_tokens=1, temperature=0, ignore_eos=True)
        return result.timings.total_s, list(result.token_ids)


if __name__ == "__main__":
    _, _, backend = sys.argv[2].partition(" ")
    serve(EdgeGPT, ["edgegpt-toolkit", ENGINES[backend], "numpy"])
