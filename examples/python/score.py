"""Choose among given answers: `python score.py BUNDLE "ROMEO:" "Ay me!" "O, speak again!"`.

The model writes nothing here: it tells how likely it finds each answer, so it can classify, rank
or check a text.
"""

import sys

import edgegpt


def main(bundle: str, prompt: str, *answers: str) -> None:
    """Print the answers, the likeliest first, with their nats a token."""
    with edgegpt.load(bundle) as lm:
        scores = lm.score(prompt, list(answers))
    mean = [sum(one) / len(one) for one in scores]
    for nats, answer in sorted(zip(mean, answers, strict=True), reverse=True):
        print(f"{nats:8.3f}  {answer}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edgegpt.EdgeGPTError as error:
        sys.exit(f"error: {error}")
