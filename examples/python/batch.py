"""Continue each line of a file: `python batch.py BUNDLE < prompts.txt`, one JSON object a line.

The lines go to the model together, several a call: that is much faster than one after the other,
or than several threads, because the weights are read once for all rows of a batch.
"""

import json
import sys
from collections.abc import Iterator
from itertools import islice

import edgegpt

ROWS = 16  # of a batch; each has a cache of its own


def main(bundle: str) -> None:
    """Read prompts from stdin and write results to stdout, in the same order."""
    lines = (line.rstrip("\n") for line in sys.stdin)
    prompts = (line for line in lines if line)
    with edgegpt.load(bundle) as lm:
        while batch := list(islice(prompts, ROWS)):
            for prompt, text in zip(batch, texts(lm, batch), strict=True):
                print(json.dumps({"prompt": prompt, "text": text}), flush=True)


def texts(lm: edgegpt.LanguageModel, batch: list[str]) -> Iterator[str | None]:
    """Yield what follows each prompt. A row that has ended costs nothing any more."""
    for result in lm.generate(batch, max_new_tokens=60, temperature=0, stop="\n\n"):
        yield result.text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:
        sys.exit(f"error: {error}")
