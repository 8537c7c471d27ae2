"""One model for several threads: `python threads.py BUNDLE "ROMEO:" "JULIET:" "KING:"`.

`generate` may be called from any thread: each call has its own cache, and the weights are shared.
The threads share the cores, too, so this is for programs whose requests come one by one; for
prompts that are there together, a batch (batch.py) is several times faster. A stream belongs to
one thread at a time.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import edgegpt

AT_ONCE = 2  # more would only slow each other down


def main(bundle: str, *prompts: str) -> None:
    """Continue the prompts in a pool of threads; print them in their order."""
    with edgegpt.load(bundle) as lm, ThreadPoolExecutor(AT_ONCE) as pool:

        def continued(prompt: str) -> str:
            return lm.generate(prompt, max_new_tokens=60, temperature=0).text or ""

        for prompt, text in zip(prompts, pool.map(continued, prompts), strict=True):
            print(f"{prompt}{text}\n---")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:
        sys.exit(f"error: {error}")
