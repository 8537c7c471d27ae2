"""Worker: ExecuTorch's runtime through its Python bindings. Tokens are chosen by argmax."""

import time
from pathlib import Path

import torch
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers the attention
from executorch.extension.pybindings import portable_lib as runtime
from executorch.kernels import quantized  # noqa: F401  registers quantised embeddings
from worker import serve


class ExecuTorch:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        torch.set_num_threads(1)  # torch only chooses the token; the runtime has its own threads
        runtime._unsafe_reset_threadpool(threads)
        self.program = runtime._load_for_executorch(str(folder / "model.pte"))
        self._feed([1], 0)  # the first call packs the weights, which belongs to loading

    def _feed(self, ids: list[int], past: int) -> int:
        """Feed ids [T] after `past` tokens, over what the cache had there; return the next id."""
        inputs = (torch.tensor([ids]), torch.tensor([past]))
        # float32 logits [1, V] of the last position; the next call may overwrite them
        return int(self.program.forward(inputs, clone_outputs=False)[0].argmax())

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        (prompt,) = prompts
        chosen = [self._feed(prompt, 0)]
        started = time.perf_counter()
        for step in range(tokens):
            chosen.append(self._feed(chosen[-1:], len(prompt) + step))
        return time.perf_counter() - started, chosen

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        started = time.perf_counter()
        token = self._feed(prompt, 0)
        return time.perf_counter() - started, [token]


if __name__ == "__main__":
    serve(ExecuTorch, ["executorch", "torch"])
