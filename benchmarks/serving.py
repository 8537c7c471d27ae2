"""Throughput and latency of `edgegpt serve` beside one `generate` at a time, as JSON and a table.

    python benchmarks/serving.py BUNDLE [--clients 1 4 16 64] [--tokens 128] [--rounds 3]
        [--threads N] [--rows 16] [--context N] [--out FILE.json]
        [--llama-server PROGRAM --gguf FILE]

Each round measures `generate` alone, then every number of clients, and ratios are taken within the
round. A client asks for one streamed completion after the other; all have prompts of their own.
The first token's time is what the client sees, waiting for a row included. A server is a process
of its own, and the clients are threads of this one.

With llama.cpp's server and the GGUF file that the bundle was made of, both servers are measured in
turn for every number of clients, with equal threads, rows and context.
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import edgegpt

OURS, PEER = "edgegpt", "llama-server"
EACH = 2  # completions of each client
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.0}
WORDS = ["ROMEO", "JULIET", "KING", "First Citizen", "Nurse", "DUKE", "QUEEN", "GLOUCESTER"]


def prompt_of(number: int) -> str:
    """Return the prompt of a client."""
    return f"{WORDS[number % len(WORDS)]}:\n{WORDS[number // len(WORDS) % len(WORDS)]}, what "


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[int]:
    """Run the server; yield its port."""
    command = [sys.executable, "-m", "edgegpt", "serve", str(arguments.bundle), "--port", "0"]
    command += ["--json", "--backend", "cpu", "--rows", str(arguments.rows)]
    command += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    command += [] if arguments.context is None else ["--context", str(arguments.context)]
    with running(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["url"].split(":")[2].split("/")[0])


@contextmanager
def llama_server(arguments: argparse.Namespace) -> Iterator[int]:
    """Run llama.cpp's server; yield its port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    command = [str(arguments.llama_server), "-m", str(arguments.gguf), "--port", str(port)]
    command += ["-np", str(arguments.rows), "-c", str(arguments.rows * arguments.context)]
    threads = str(arguments.threads)
    with running([*command, "-t", threads, "-tb", threads], stdout=subprocess.DEVNULL) as process:
        while not is_ready(port):
            assert process.poll() is None, f"{arguments.llama_server} ended"
            time.sleep(0.2)
        yield port


@contextmanager
def running(command: list[str], stdout: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process until the block ends."""
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    """Return whether a server writes texts already."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def ask(port: int, number: int, tokens: int) -> tuple[int, float]:
    """Ask for a completion; return its new tokens, and the seconds to its first one."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {
        "prompt": prompt_of(number),
        "max_tokens": tokens,
        **SAMPLING,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin, first = time.perf_counter(), 0.0
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    found: dict[str, Any] = {}
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - begin
            found = json.loads(line[6:])
    connection.close()
    return int(found["usage"]["completion_tokens"]), first


def clients(port: int, count: int, tokens: int) -> dict[str, float]:
    """Return tokens a second over all clients, and the median and the slowest first token."""

    def one(number: int) -> list[tuple[int, float]]:
        return [ask(port, number + count * turn, tokens) for turn in range(EACH)]

    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = [pair for pairs in pool.map(one, range(count)) for pair in pairs]
    seconds = time.perf_counter() - begin
    firsts = [first for _, first in found]
    return {
        "tokens_per_second": sum(new for new, _ in found) / seconds,
        "first_token_s": statistics.median(firsts),
        "slowest_first_token_s": max(firsts),
    }


def alone(model: edgegpt.LanguageModel, tokens: int) -> float:
    """Return tokens a second of one text after the other."""
    begin, new = time.perf_counter(), 0
    for number in range(2 * EACH):
        result = model.generate(
            prompt_of(number), max_new_tokens=tokens, seed=number, ignore_eos=True, **SAMPLING
        )
        new += len(result.token_ids)
    return new / (time.perf_counter() - begin)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all rounds."""
    rounds = []
    with ExitStack() as stack:
        model = stack.enter_context(
            edgegpt.load(arguments.bundle, "cpu", threads=arguments.threads)
        )
        ports = {OURS: stack.enter_context(server(arguments))}
        if arguments.llama_server is not None:
            ports[PEER] = stack.enter_context(llama_server(arguments))
        for port in ports.values():
            clients(port, 1, 8)  # warm
        alone(model, 8)
        for _ in range(arguments.rounds):
            one: dict[str, Any] = {"alone": alone(model, arguments.tokens)}
            for count in arguments.clients:
                for name, port in ports.items():
                    cell = clients(port, count, arguments.tokens)
                    one.setdefault(name, {})[str(count)] = cell
                    rate = f"{cell['tokens_per_second']:,.0f} tokens/s"
                    print(f"{name}, clients: {count}, {rate}", file=sys.stderr, flush=True)
            rounds.append(one)
    found = {"bundle": arguments.bundle.name, "tokens": arguments.tokens, "rows": arguments.rows}
    return found | {"threads": arguments.threads, "rounds": rounds}


def table(found: dict[str, Any]) -> str:
    """Return the medians, with the smallest and the largest, as Markdown."""
    rounds = found["rounds"]
    names = [name for name in (OURS, PEER) if name in rounds[0]]
    lines = [
        "| clients | server | tokens/s | times one text alone | first token, ms | slowest, ms |"
    ]
    lines.append("|---|---|---|---|---|---|")
    lines.append(f"| | `generate` | {spread([one['alone'] for one in rounds], 0)} | | | |")
    for count in rounds[0][OURS]:
        for name in names:
            cells = [one[name][count] for one in rounds]
            rates = [cell["tokens_per_second"] for cell in cells]
            ratios = [rate / one["alone"] for rate, one in zip(rates, rounds, strict=True)]
            firsts = [1e3 * cell["first_token_s"] for cell in cells]
            slowest = [1e3 * cell["slowest_first_token_s"] for cell in cells]
            lines.append(
                f"| {count} | {name} | {spread(rates, 0)} | {spread(ratios, 2)} | "
                f"{spread(firsts, 0)} | {spread(slowest, 0)} |"
            )
    return "\n".join(lines + ([] if PEER not in names else ["", versus(rounds)]))


def versus(rounds: list[dict[str, Any]]) -> str:
    """Return how many times the peer's tokens there are, for each number of clients."""
    lines = [f"| clients | tokens/s, times {PEER}'s |", "|---|---|"]
    for count in rounds[0][OURS]:
        rates = [[one[name][count]["tokens_per_second"] for name in (OURS, PEER)] for one in rounds]
        lines.append(f"| {count} | {spread([ours / theirs for ours, theirs in rates], 2)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Return a median with the smallest and the largest value."""
    parts = statistics.median(values), min(values), max(values)
    return "{:,.{d}f} ({:,.{d}f}-{:,.{d}f})".format(*parts, d=digits)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--context", type=int)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.llama_server and None in (arguments.gguf, arguments.threads, arguments.context):
        parser.error("--llama-server needs --gguf, --threads and --context")
    found = measure(arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
