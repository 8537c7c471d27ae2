"""Time to the first token after a restart, with and without `--prefix-dir`, as a line of JSON.

    python benchmarks/prefix.py BUNDLE PREFIX.txt [--rounds 5] [--threads N]

Each round starts the server twice: cold, and with the prefix in the folder, and asks each once for
a text that begins with PREFIX.txt: as the system's message where the bundle has a chat template.
The first token's time is what the client sees.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUESTION = "\nWhat now?"


@contextmanager
def server(arguments: argparse.Namespace, *options: str) -> Iterator[tuple[int, float]]:
    """Run the server; yield its port, and the seconds until it listened."""
    command = [sys.executable, "-m", "edgegpt", "serve", str(arguments.bundle), "--port", "0"]
    command += ["--json", "--backend", "cpu", *options]
    command += [] if arguments.threads is None else ["--threads", str(arguments.threads)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield int(told["url"].split(":")[2].split("/")[0]), time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()


def ask(port: int, text: str, *, chat: bool) -> dict[str, float]:
    """Ask for a text; return the seconds to its first token, and how many tokens were there."""
    body = {"max_tokens": 8, "temperature": 0, "stream": True, "ignore_eos": True}
    body |= {"stream_options": {"include_usage": True}}
    if chat:
        roles = {"system": text, "user": QUESTION}
        body["messages"] = [{"role": role, "content": one} for role, one in roles.items()]
    else:
        body["prompt"] = text + QUESTION
    path = "/v1/chat/completions" if chat else "/v1/completions"
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begin, times, found = time.perf_counter(), [], {}
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            times.append(time.perf_counter() - begin)
            found = json.loads(line[6:])
    connection.close()
    # The first event of a chat has only the role.
    usage = found["usage"]
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {
        "first_token_s": times[1 if chat else 0],
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": cached,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    text = arguments.prefix.read_text().removesuffix("\n")
    chat = (arguments.bundle / "chat_template.jinja").exists()
    rounds: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        kept = ["--prefix", str(arguments.prefix), "--prefix-dir", folder]
        with server(arguments, *kept):
            pass
        for _ in range(arguments.rounds):
            for name, options in (("cold", []), ("warm", kept)):
                with server(arguments, *options) as (port, seconds):
                    rounds[name].append({"start_s": seconds} | ask(port, text, chat=chat))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    result = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in rounds.items()
    }
    spread = {
        name: [round(edge(one["first_token_s"] for one in found), 4) for edge in (min, max)]
        for name, found in rounds.items()
    }
    print(json.dumps(result | {"first_token_range_s": spread, "file_bytes": size}))


if __name__ == "__main__":
    main()
