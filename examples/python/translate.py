"""Translate lines with an encoder-decoder: `python translate.py BUNDLE < lines.txt`."""

import sys

import edgegpt


def main(bundle: str) -> None:
    """Write a translation for each line of stdin, with its score."""
    sources = [line for line in sys.stdin.read().splitlines() if line]
    with edgegpt.load(bundle) as lm:
        results = lm.generate(sources, num_beams=4, num_return_sequences=2)
        for source, result in zip(sources, results, strict=True):
            print(f"{source} -> {result.text}")
            for other in result.hypotheses[1:]:
                print(f"  or, with a score of {other.score:.2f}: {other.text}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:
        sys.exit(f"error: {error}")
