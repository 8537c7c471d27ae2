"""The gain of prompt lookup: python benchmarks/speculation.py BUNDLE [--tokens N] [--repeats N].

Two tasks, greedy, one prompt. *Copying*: a passage of the golden file's text is given twice and
begun a third time. *Free text*: the beginning of a passage is given once. Plain and drafted runs
take turns. A ratio is the drafted over the plain tokens per second of the same round.
"""

import argparse
import json
import statistics
import warnings
from pathlib import Path

import edgegpt
from edgegpt.errors import EdgeGPTWarning
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.language_model import LanguageModel

DRAFTS = (3, 7)
PASSAGE, BEGUN = 60, 20  # tokens


def prompts(model: LanguageModel) -> dict[str, list[int]]:
    """Return the tasks' prompts, cut from the text of the golden file."""
    text = Golden.load(model.bundle.file(GOLDEN_NAME)).chunked.ids.tolist()
    passage = text[:PASSAGE]
    return {"copying": passage * 2 + passage[:BEGUN], "free text": text[:BEGUN]}


def speed(model: LanguageModel, prompt: list[int], tokens: int, draft: int):
    """Return new tokens per second after the first one, and the ids."""
    result = model.generate(
        prompt, max_new_tokens=tokens, speculate=draft, temperature=0, ignore_eos=True
    )
    seconds = result.timings.total_s - result.timings.first_token_s
    return (tokens - 1) / seconds, result.token_ids


def main() -> None:
    """Measure and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    warnings.simplefilter("ignore", EdgeGPTWarning)
    model = edgegpt.load(args.bundle, threads=args.threads)
    answer = {}
    for task, prompt in prompts(model).items():
        ratios: dict[int, list[float]] = {draft: [] for draft in DRAFTS}
        plain_speeds, same = [], True
        for number in range(args.repeats + 1):
            plain, wanted = speed(model, prompt, args.tokens, 0)
            drafted = {draft: speed(model, prompt, args.tokens, draft) for draft in DRAFTS}
            if number == 0:
                continue  # warm-up
            plain_speeds.append(plain)
            for draft, (per_second, ids) in drafted.items():
                ratios[draft].append(per_second / plain)
                same &= ids == wanted
        answer[task] = {
            "plain_tokens_per_s": round(statistics.median(plain_speeds), 1),
            "same_text": same,
            "ratio_median_min_max": {
                draft: [round(f(values), 3) for f in (statistics.median, min, max)]
                for draft, values in ratios.items()
            },
        }
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
