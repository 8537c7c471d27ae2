"""Worker: llama.cpp through its C interface. Tokens are chosen by argmax, not sampled."""

import ctypes
import time
from pathlib import Path

import llama_cpp
import numpy as np
from worker import serve

LARGEST_STEP = 512  # tokens in one llama_decode; also llama.cpp's default


class LlamaCpp:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        path = str(folder / "model.gguf").encode()
        self.model = llama_cpp.llama_model_load_from_file(
            path, llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {folder}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.threads = threads
        self.contexts: dict[int, ctypes.c_void_p] = {}
        self.batch = llama_cpp.llama_batch_init(LARGEST_STEP, 0, 1)

    def _context(self, rows: int) -> ctypes.c_void_p:
        """Return an emptied context for `rows` sequences; one is made per number of rows."""
        if rows not in self.contexts:
            params = llama_cpp.llama_context_default_params()
            params.n_ctx = rows * llama_cpp.llama_model_n_ctx_train(self.model)
            params.n_batch = params.n_ubatch = LARGEST_STEP
            params.n_seq_max = rows
            params.n_threads = params.n_threads_batch = self.threads
            params.no_perf = True
            context = llama_cpp.llama_init_from_model(self.model, params)
            if not context:
                raise RuntimeError("llama.cpp makes no context")
            self.contexts[rows] = context
        context = self.contexts[rows]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
        return context

    def _feed(self, context: ctypes.c_void_p, rows: list[list[int]], past: int) -> list[int]:
        """Feed rows of equal length after `past` tokens; return the most likely next ids."""
        batch, length, outputs = self.batch, len(rows[0]), []
        batch.n_tokens = len(rows) * length
        for row, ids in enumerate(rows):
            for position, token in enumerate(ids):
                slot = row * length + position
                batch.token[slot] = token
                batch.pos[slot] = past + position
                batch.n_seq_id[slot] = 1
                batch.seq_id[slot][0] = row
                batch.logits[slot] = position == length - 1
            outputs.append(row * length + length - 1)
        code = llama_cpp.llama_decode(context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode answered {code}")
        return [self._best(llama_cpp.llama_get_logits_ith(context, slot)) for slot in outputs]

    def _best(self, logits: ctypes.Array) -> int:
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab,)).argmax())

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        context, past = self._context(len(prompts)), len(prompts[0])
        chosen = [self._feed(context, prompts, 0)]
        started = time.perf_counter()
        for step in range(tokens):
            chosen.append(self._feed(context, [[token] for token in chosen[-1]], past + step))
        seconds = time.perf_counter() - started
        return seconds, [row[0] for row in chosen]

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        context = self._context(1)
        started = time.perf_counter()
        token = self._feed(context, [prompt], 0)
        return time.perf_counter() - started, token


if __name__ == "__main__":
    serve(LlamaCpp, ["llama-cpp-python"])
