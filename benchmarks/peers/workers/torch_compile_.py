"""Worker: transformers under torch.compile on a GPU, with a static cache and CUDA graphs.

As in transformers' `generate`, prompts run eagerly and the step of one token is compiled.
"""

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, StaticCache
from worker import serve


class TorchCompile:
    def __init__(self, folder: Path, format_name: str, threads: int, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {torch.__version__} sees no GPU")
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        dtype = getattr(torch, format_name)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
        self.compiled = torch.compile(self._feed, mode="reduce-overhead", fullgraph=True)
        self.caches: dict[tuple[int, int], StaticCache] = {}

    def _feed(self, ids: torch.Tensor, positions: torch.Tensor, cache: StaticCache) -> torch.Tensor:
        """Feed ids [B, T] at positions [1, T]; return the most likely next ids [B, 1]."""
        output = self.model(
            ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1:].argmax(dim=-1)

    def _cache(self, rows: int, length: int) -> StaticCache:
        """Return an emptied cache, one per size, because the compiled step depends on the cache."""
        if (rows, length) not in self.caches:
            self.caches[rows, length] = StaticCache(config=self.model.config, max_cache_len=length)
        cache = self.caches[rows, length]
        cache.reset()
        return cache

    def _positions(self, begin: int, end: int) -> torch.Tensor:
        return torch.arange(begin, end, device=self.device)[None]

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        past = len(prompts[0])
        cache = self._cache(len(prompts), past + tokens)
        ids = torch.tensor(prompts, device=self.device)
        chosen = [self._feed(ids, self._positions(0, past), cache)]
        self._wait()
        started = time.perf_counter()
        for step in range(past, past + tokens):
            token = self.compiled(chosen[-1], self._positions(step, step + 1), cache)
            chosen.append(token.clone())  # the graph's next run writes into the same memory
        self._wait()
        seconds = time.perf_counter() - started
        return seconds, torch.cat(chosen, dim=1)[0].tolist()

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        cache = self._cache(1, len(prompt))
        ids, positions = torch.tensor([prompt], device=self.device), self._positions(0, len(prompt))
        self._wait()
        started = time.perf_counter()
        token = self._feed(ids, positions, cache)[0].tolist()  # the fetch waits for the device
        return time.perf_counter() - started, token


if __name__ == "__main__":
    serve(TorchCompile, ["transformers", "torch"])
