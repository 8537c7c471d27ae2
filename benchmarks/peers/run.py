"""Measure edgegpt beside its peers, in turn A B C A B C: python peers/run.py --help.

A cell is one shape at one number of bits. All its workers are alive at once, and all but one are
paused. Each round asks every worker for each measurement, so that a temporary disturbance of the
machine affects all workers. Ratios are taken within a round.
"""

import argparse
import datetime
import json
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from client import Client, WorkerError
from contestants import BITS, DEVICES, ONE_ROW, PEERS, Contestant, contestants
from machine import describe
from make_models import HERE, folder_of, python_of
from report import markdown
from shapes import DECODE_PROMPT, DECODE_TOKENS, SEARCH_SOURCE, SEARCH_TOKENS, SHAPES, USUAL, Shape

FORMAT_VERSION = 1
RESULTS = HERE.parent / "results"
TURN_AT_LEAST_S = 0.5


def measurements(shape: Shape, device: str) -> list[tuple[str, dict, int]]:
    """Return the title, the request, and the number of tokens per call of each measurement.

    A GPU is asked for short and full prompts, too: the time to the first token depends on the host
    for the former, and on the attention for the latter.
    """
    if shape.pairs:
        search = {"measure": "search", "prompt": SEARCH_SOURCE, "tokens": SEARCH_TOKENS}
        return [
            (
                f"{f'beam {beams}' if beams > 1 else 'greedy'}, batch {batch}",
                {**search, "batch": batch, "beams": beams},
                batch * SEARCH_TOKENS,
            )
            for beams in (1, 4)
            for batch in (1, 16)
        ]
    decode = {"measure": "decode", "prompt": DECODE_PROMPT, "tokens": DECODE_TOKENS}
    lengths = {shape.prefill} | ({DECODE_PROMPT, shape.context - 1} if device == "cuda" else set())
    return [
        ("decode, batch 1", {**decode, "batch": 1}, DECODE_TOKENS),
        ("decode, batch 4", {**decode, "batch": 4}, 4 * DECODE_TOKENS),
        *(
            (f"prefill, {length} tokens", {"measure": "prefill", "prompt": length}, length)
            for length in sorted(lengths)
        ),
    ]


class Cell:
    """The workers of one shape at one number of bits, and their answers."""

    def __init__(
        self, shape: Shape, bits: int, device: str, present: list[Contestant], absent: dict
    ) -> None:
        self.shape, self.bits, self.present, self.absent = shape, bits, present, dict(absent)
        self.measurements = measurements(shape, device)
        self.clients: dict[Contestant, Client] = {}
        self.seconds: dict[tuple[str, Contestant], list[float]] = {}
        self.ids: dict[tuple[str, Contestant], list[int]] = {}

    def start(self, stack: ExitStack, logs: Path, threads: int, python_edgegpt: str) -> None:
        """Start every worker; a worker that cannot start is listed as absent, with the reason."""
        for one in self.present:
            folder = folder_of(self.shape, one)
            if not folder.is_dir():
                self.absent[one.label] = "not made yet; run make_models.py"
                continue
            command = [
                *(python_of(one.peer, python_edgegpt), str(HERE / "workers" / f"{one.peer}_.py")),
                *(str(folder), one.format, str(threads), self.shape.name),
            ]
            try:
                client = Client(command, logs / f"{one.label}.log")
            except (WorkerError, OSError) as error:
                self.absent[one.label] = str(error)
                continue
            stack.callback(client.close)
            self.clients[one] = client

    def round(self, keep: bool) -> None:
        """Ask every worker for every measurement; `keep` is false for the warm-up."""
        for title, request, _ in self.measurements:
            unable = self._unable(request)
            for one in [one for one in self.clients if one not in unable]:
                try:
                    at_least = TURN_AT_LEAST_S if keep else 0.0
                    answer = self.clients[one].ask({**request, "at_least_s": at_least})
                except WorkerError as error:
                    self.clients.pop(one).close()
                    self.absent[one.label] = str(error)
                    continue
                print(f"  {title}: {one.label}: {answer['seconds']:.3f} s", file=sys.stderr)
                if keep:
                    self.seconds.setdefault((title, one), []).append(answer["seconds"])
                self.ids[title, one] = answer["ids"]

    def results(self) -> list[dict]:
        """Return one entry per measurement, with the workers that did not fail.

        Of a cell that was broken off, it holds what had been measured by then.
        """
        return [
            {
                "model": self.shape.name,
                "bits": self.bits,
                "title": title,
                "request": request,
                "tokens": tokens,
                "contestants": [
                    {
                        "peer": one.peer,
                        "label": one.label,
                        "seconds": self.seconds[title, one],
                        "ids": self.ids[title, one],
                    }
                    for one in self.clients
                    if (title, one) in self.seconds
                ],
                "absent": self.absent
                | {one.label: why for one, why in self._unable(request).items()},
            }
            for title, request, tokens in self.measurements
        ]

    def _unable(self, request: dict) -> dict[Contestant, str]:
        """Return the workers that cannot do one measurement, with the reason."""
        if request.get("batch", 1) == 1:
            return {}
        return {one: ONE_ROW[one.peer] for one in self.clients if one.peer in ONE_ROW}


def run_cell(shape: Shape, bits: int, args: argparse.Namespace, results: dict) -> None:
    """Measure one cell and append it to `results`."""
    device = args.device
    cell = Cell(shape, bits, device, *contestants(shape, bits, args.peers, device))
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cell.start(stack, logs, args.threads, args.python_edgegpt)
        try:
            for number in range(args.repeats + 1):
                told = f"{shape.name}, {bits} bits: round {number} of {args.repeats}"
                print(told, file=sys.stderr)
                cell.round(keep=number > 0)
        finally:
            for client in cell.clients.values():
                results["versions"].update(client.versions)
            results["cells"] += cell.results()


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    today = datetime.date.today().isoformat()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=USUAL)
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=list(BITS))
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python-edgegpt", default=sys.executable, metavar="PATH")
    parser.add_argument("--out", type=Path, help="default: in results, named by device and day")
    args = parser.parse_args()
    args.out = args.out or RESULTS / f"peers-{args.device}-{today}.json"
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    return args


def main() -> None:
    """Measure the cells; rewrite the results file after each cell."""
    args = arguments()
    # SIGTERM raises an exception, so that no paused worker is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    results: dict = {
        "format_version": FORMAT_VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": args.device,
        "machine": describe(),
        "threads": args.threads,
        "repeats": args.repeats,
        "versions": {"python": platform.python_version()},
        "cells": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.models:
        for bits in args.bits:
            try:
                run_cell(SHAPES[name], bits, args, results)
            finally:  # also when a signal ends it
                args.out.write_text(json.dumps(results, indent=1) + "\n")
                args.out.with_suffix(".md").write_text(markdown(results))
    print(markdown(results), end="")


if __name__ == "__main__":
    main()
