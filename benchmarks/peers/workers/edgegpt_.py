"""Worker: edgegpt through its public interface, sampling and bookkeeping included."""

import subprocess
import sys
import time
from pathlib import Path

from worker import serve

import edgegpt

# Backend -> the distribution that it runs on.
ENGINES = {
    "": "onnxruntime",
    "native": "edgegpt-toolkit",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}


class EdgeGPT:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        _, _, backend = format_name.partition(" ")  # "int4", or "float16 tensorrt"
        on_gpu = backend not in ("", "native")
        if backend == "native":  # where it was built before, it is there
            build = ["build", str(folder), "--backend", "native"]
            subprocess.run([sys.executable, "-m", "edgegpt", *build], check=True)
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

    def search(self, sources: list[list[int]], tokens: int, beams: int) -> tuple[float, list[int]]:
        started = time.perf_counter()
        results = self.lm.generate(
            sources, max_new_tokens=tokens, min_new_tokens=tokens, temperature=0, num_beams=beams
        )
        seconds = time.perf_counter() - started
        if any(len(result.token_ids) != tokens for result in results):
            raise RuntimeError("a row ended early")
        return seconds, list(results[0].token_ids)


if __name__ == "__main__":
    _, _, backend = sys.argv[2].partition(" ")
    serve(EdgeGPT, ["edgegpt-toolkit", ENGINES[backend], "numpy"], EdgeGPT)
