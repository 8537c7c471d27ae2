"""Show a text while it is written: `python stream.py BUNDLE "ROMEO:"`. Ctrl-C ends it early."""

import sys

import edgegpt


def main(bundle: str, prompt: str) -> None:
    """Print the pieces as they come; the result tells the rest."""
    with edgegpt.load(bundle) as lm:
        stream = lm.stream(prompt, max_new_tokens=300, temperature=0.8)
        print(prompt, end="", flush=True)
        try:
            for piece in stream:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            stream.close()
        result = stream.result
        print(f"\n[{len(result.token_ids)} tokens, {result.finish_reason}, seed {result.seed}]")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:
        sys.exit(f"error: {error}")
