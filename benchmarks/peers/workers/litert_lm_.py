"""Worker: LiteRT-LM's engine. Decoding is the difference between a long call and a call of one token.

The engine takes and returns text, in which the word t123 stands for the id 123.
"""

import time
from pathlib import Path

import litert_lm
from worker import serve

GREEDY = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0, seed=0)


class LiteRTLM:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
        self.engine = litert_lm.Engine(
            str(folder / "model.litertlm"),
            backend=litert_lm.Backend.CPU(thread_count=threads),
            cache_dir=":nocache",
        )

    def _generate(self, prompt: list[int], tokens: int) -> tuple[float, float, list[int]]:
        """Return the seconds for the prompt, those for making `tokens`, and their ids."""
        text = " ".join(f"t{token}" for token in prompt)
        if self.engine.tokenize(text) != prompt:
            raise RuntimeError("the tokenizer does not give the prompt's ids")
        with self.engine.create_session(
            apply_prompt_template=False, sampler_config=GREEDY, max_output_tokens=tokens
        ) as session:
            started = time.perf_counter()
            session.run_prefill([text])
            fed = time.perf_counter()
            (made,) = session.run_decode().texts
            ended = time.perf_counter()
        ids = [int(word.removeprefix("t")) for word in made.split()]
        if len(ids) != tokens:
            raise RuntimeError(f"{len(ids)} tokens came out, not {tokens}")
        return fed - started, ended - fed, ids

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        (prompt,) = prompts
        _, first, _ = self._generate(prompt, 1)
        _, total, ids = self._generate(prompt, tokens + 1)
        if total <= first:
            raise RuntimeError(
                "one token took longer than many: the machine is too busy to measure"
            )
        return total - first, ids

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        feeding, choosing, ids = self._generate(prompt, 1)
        return feeding + choosing, ids


if __name__ == "__main__":
    serve(LiteRTLM, ["litert-lm"])
