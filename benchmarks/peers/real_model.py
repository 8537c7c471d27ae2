"""Measure bundles of a real model beside llama.cpp on the GGUF file that they were made of.

    benchmarks/peers/setup.sh llama_cpp
    python benchmarks/peers/real_model.py --gguf MODEL.gguf --bundle float32 DIR --bundle int4 DIR

The model has to have the vocabulary and the context of one of the shapes; `--shape` names it
(default: llama-135m, which fits SmolLM2-135M). The workers, and the way in which they take turns,
are those of run.py. Ratios are taken within a round and are above 1 where edgegpt is faster.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from client import Client
from machine import describe
from make_models import HERE, python_of
from run import TURN_AT_LEAST_S, measurements
from shapes import SHAPES


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--bundle", nargs=2, action="append", required=True, metavar="NAME DIR")
    parser.add_argument("--shape", choices=SHAPES, default="llama-135m")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python-edgegpt", default=sys.executable, metavar="PATH")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    return parser.parse_args()


def started(args: argparse.Namespace, stack: ExitStack) -> dict[str, Client]:
    """Start llama.cpp and a worker for each bundle, all paused."""
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (logs / "gguf").mkdir()
    (logs / "gguf" / "model.gguf").symlink_to(args.gguf.absolute())
    folders = {"llama.cpp": ("llama_cpp", logs / "gguf")}
    folders |= {name: ("edgegpt", Path(folder)) for name, folder in args.bundle}
    clients = {}
    for name, (peer, folder) in folders.items():
        command = [python_of(peer, args.python_edgegpt), str(HERE / "workers" / f"{peer}_.py")]
        command += [str(folder), name, str(args.threads), args.shape]
        clients[name] = Client(command, logs / f"{name}.log")
        stack.callback(clients[name].close)
    return clients


def measured(args: argparse.Namespace, clients: dict[str, Client]) -> list[dict]:
    """Return the tokens per second of each round, for each measurement and contestant."""
    results = []
    for title, request, tokens in measurements(SHAPES[args.shape], "cpu"):
        rates: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(args.rounds + 1):
            for name, client in clients.items():
                at_least = TURN_AT_LEAST_S if number else 0.0
                answer = client.ask({**request, "at_least_s": at_least})
                if number:  # the first round is the warm-up
                    rates[name].append(tokens / answer["seconds"])
        results.append({"title": title, "tokens_per_second": rates})
    return results


def table(results: list[dict]) -> str:
    """Return the results as Markdown, with the ratio to llama.cpp: median, smallest and largest."""
    lines = ["| measurement | contestant | tokens/s | ratio to llama.cpp |", "|---|---|---|---|"]
    for result in results:
        rates = result["tokens_per_second"]
        for name, own in rates.items():
            ratios = [one / other for one, other in zip(own, rates["llama.cpp"], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            lines.append(
                f"| {result['title']} | {name} | {statistics.median(own):.0f} | {spread} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, and write the results."""
    args = arguments()
    with ExitStack() as stack:
        clients = started(args, stack)
        results = measured(args, clients)
        versions = {name: client.versions for name, client in clients.items()}
    print(table(results), end="")
    if args.out is not None:
        document = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": describe(),
            "threads": args.threads,
            "gguf": args.gguf.name,
            "versions": versions,
            "results": results,
        }
        args.out.write_text(json.dumps(document, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
