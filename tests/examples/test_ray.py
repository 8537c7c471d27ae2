"""examples/ray_batch.py on a Ray of this machine alone; Ray takes a while to start."""

import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from environments import ROOT

import edgegpt
from edgegpt.runtime.evaluate import evaluate_model

pytest.importorskip("ray.data", reason='Ray is not installed: pip install "ray[data]"')

PROGRAM = ROOT / "examples" / "ray_batch.py"


def run(*arguments: object, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program on two cores of this machine."""
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    local = os.environ | {"RAY_ADDRESS": "local", "RAY_OVERRIDE_CPUS": "2"} | variables
    done = subprocess.run(
        command, env=local, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == status, done.stderr
    return done


@contextmanager
def a_proxy() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of an HTTP proxy that passes nothing on, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.fixture(scope="module")
def lm(small_bundle: Path):
    with edgegpt.load(small_bundle) as model:
        yield model


@pytest.mark.long
def test_prompts_of_several_files_are_continued_and_a_wrong_one_is_told(
    small_bundle: Path, lm: edgegpt.LanguageModel, tmp_path: Path
) -> None:
    prompts = [f"The wind{' and the wind' * (number % 5)}" for number in range(60)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.txt").write_text("\n".join(prompts[:40]))
    (tmp_path / "in" / "two.txt").write_text("\n\n".join([*prompts[40:], "snow ☃"]) + "\n")
    run("write", small_bundle, tmp_path / "in", tmp_path / "out")
    found = [
        json.loads(line)
        for file in (tmp_path / "out").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert sorted(one["prompt"] for one in found) == sorted([*prompts, "snow ☃"])
    wanted = {"max_new_tokens": 60, "temperature": 0, "stop": "\n\n"}
    texts = {one: lm.generate(one, **wanted).text for one in set(prompts)}
    for one in found:
        if one["prompt"] in texts:
            assert (one["text"], one["error"]) == (texts[one["prompt"]], "")
        else:
            assert one["text"] == ""
            assert "☃" in one["error"]


@pytest.mark.long
def test_a_text_is_evaluated_in_pieces_as_each_of_them_is(
    small_bundle: Path, lm: edgegpt.LanguageModel, tmp_path: Path
) -> None:
    texts = ["".join(f"The wind {'wind ' * (n % k)}\n" for n in range(5000)) for k in (3, 8)]
    assert [len(text) // 100_000 for text in texts] == [0, 1]  # the second one has two pieces
    (tmp_path / "texts").mkdir()
    for name, text in zip("ab", texts, strict=True):
        (tmp_path / "texts" / name).write_text(text)
    with a_proxy() as (proxy, asked):
        said = run("eval", small_bundle, tmp_path / "texts", http_proxy=proxy).stdout
    assert asked == []  # Ray's head asks 169.254.169.254 where it can
    pieces = [texts[0], texts[1][:100_000], texts[1][100_000:]]
    results = [evaluate_model(lm, lm.tokenizer.encode(piece)) for piece in pieces]
    tokens = sum(result.tokens for result in results)
    loss = sum(result.loss * result.tokens for result in results) / tokens
    told = re.fullmatch(r"([\d.]+) nats per token, perplexity [\d.]+, ([\d,]+) tokens\n", said)
    assert float(told[1]) == pytest.approx(loss, abs=1e-5)
    assert told[2] == f"{tokens:,}"


def test_another_bundle_on_a_machine_of_the_cluster_is_refused(small_bundle: Path) -> None:
    program = runpy.run_path(str(PROGRAM))
    wanted = edgegpt.load(small_bundle).bundle.manifest.id
    program["Writer"](str(small_bundle), wanted)
    with pytest.raises(edgegpt.BundleError, match=f"{small_bundle} is {wanted} on .*, and another"):
        program["Writer"](str(small_bundle), "another")


def test_what_is_wrong_is_one_sentence() -> None:
    assert "error: no bundle at " in run("eval", "nowhere", "text.txt", status=1).stderr
    assert run("write", "nowhere", "text.txt", status=1).stderr.startswith("Files that are larger")
