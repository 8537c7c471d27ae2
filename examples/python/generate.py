"""Continue a prompt: `python generate.py BUNDLE "ROMEO:"`."""

import sys

import edgegpt


def main(bundle: str, prompt: str) -> None:
    """Print one text, and how it came about."""
    with edgegpt.load(bundle) as lm:
        result = lm.generate(prompt, max_new_tokens=100, temperature=0.8, seed=1)
        print(prompt + (result.text or ""))
        speed = result.timings.tokens_per_second
        print(f"[{result.finish_reason}, seed {result.seed}, {speed:.0f} tokens/s]")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:  # a missing bundle, a strange character, ...
        sys.exit(f"error: {error}")
