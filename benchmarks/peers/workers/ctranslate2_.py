"""Worker: CTranslate2. Decoding is the difference between a long call and a call of one token."""

import time
from pathlib import Path

import ctranslate2
from worker import serve


def _settings(format_name: str, threads: int) -> dict:
    return {
        "device": "cpu",
        "compute_type": {"float32": "float32", "int8": "int8_float32"}[format_name],
        "inter_threads": 1,
        "intra_threads": threads,
    }


def _words(prompts: list[list[int]]) -> list[list[str]]:
    return [[f"t{token}" for token in prompt] for prompt in prompts]


class CTranslate2:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        self.generator = ctranslate2.Generator(str(folder), **_settings(format_name, threads))

    def _generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        rows = _words(prompts)
        started = time.perf_counter()
        results = self.generator.generate_batch(
            rows,
            beam_size=1,
            sampling_topk=1,
            min_length=tokens,  # the end token is masked, so that every row runs to the end
            max_length=tokens,
            include_prompt_in_result=False,
        )
        seconds = time.perf_counter() - started
        if any(len(result.sequences_ids[0]) != tokens for result in results):
            raise RuntimeError("a row ended early")
        return seconds, results[0].sequences_ids[0]

    def decode(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[int]]:
        first, _ = self._generate(prompts, 1)
        total, ids = self._generate(prompts, tokens + 1)
        if total <= first:
            raise RuntimeError(
                "one token took longer than many: the machine is too busy to measure"
            )
        return total - first, ids

    def prefill(self, prompt: list[int]) -> tuple[float, list[int]]:
        return self._generate([prompt], 1)


class Pairs:
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        self.translator = ctranslate2.Translator(str(folder), **_settings(format_name, threads))

    def search(self, sources: list[list[int]], tokens: int, beams: int) -> tuple[float, list[int]]:
        rows = _words(sources)
        started = time.perf_counter()
        results = self.translator.translate_batch(
            rows,
            beam_size=beams,
            min_decoding_length=tokens,
            max_decoding_length=tokens,
        )
        seconds = time.perf_counter() - started
        if any(len(result.hypotheses[0]) != tokens for result in results):
            raise RuntimeError("a row ended early")
        return seconds, [int(word.removeprefix("t")) for word in results[0].hypotheses[0]]


if __name__ == "__main__":
    serve(CTranslate2, ["ctranslate2"], Pairs)
