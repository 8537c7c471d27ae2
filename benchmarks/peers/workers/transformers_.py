"""Worker: transformers, eager PyTorch in float32 with its growing cache."""

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, DynamicCache
from worker import serve


class Transformers:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def _feed(self, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """Feed ids [B, T]; return the most likely next ids [B, 1]."""
        output = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1:].argmax(dim=-1)

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        cache = DynamicCache(config=self.model.config)
        chosen = [self._feed(torch.tensor(prompts), cache)]
        started = time.perf_counter()
        for _ in range(tokens):
            chosen.append(self._feed(chosen[-1], cache))
        seconds = time.perf_counter() - started
        return seconds, torch.cat(chosen, dim=1)[0].tolist()

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        ids = torch.tensor([prompt])
        started = time.perf_counter()
        token = self._feed(ids, DynamicCache(config=self.model.config))
        return time.perf_counter() - started, token[0].tolist()


class Pairs:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def search(self, sources: list[list[int]], tokens: int, beams: int) -> tuple[float, list[int]]:
        started = time.perf_counter()
        found = self.model.generate(
            torch.tensor(sources),
            num_beams=beams,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=False,
        )
        return time.perf_counter() - started, found[0, 1:].tolist()


if __name__ == "__main__":
    serve(Transformers, ["transformers", "torch"], Pairs)
