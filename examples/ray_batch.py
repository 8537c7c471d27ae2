"""Files that are larger than a machine, on all machines of a Ray cluster, by Ray Data.

    pip install "edgegpt-toolkit[cpu]" "ray[data]"
    python ray_batch.py write BUNDLE prompts.txt answers   # a prompt a line; a folder of JSON lines
    python ray_batch.py eval BUNDLE texts                  # loss and perplexity: a file or a folder

Without a cluster it runs on the cores of this machine; RAY_ADDRESS names one, on each machine of
which the same bundle is at the same path. Ray reads a file in pieces, and hands them to processes
that have opened the bundle, one a core. A machine that is lost costs only its last pieces.
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

import edgegpt
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.evaluate import evaluate_model

ROWS = 16  # prompts that are continued at a time
PIECE = 100_000  # characters that are evaluated as a text of their own

Columns = dict[str, Any]  # of a batch: arrays or lists of the same length


class Model:
    """A bundle that is open in a process of the cluster."""

    def __init__(self, bundle: str, wanted: str) -> None:
        self.lm = edgegpt.load(bundle, threads=1)
        found = self.lm.bundle.manifest.id
        if found != wanted:
            raise edgegpt.BundleError(
                f"{bundle} is {found} on {os.uname().nodename}, and {wanted} where this was started"
            )


class Writer(Model):
    """Continues prompts."""

    def __call__(self, lines: Columns) -> Columns:
        """Return the text that follows each prompt, or what is wrong with it."""
        answers = self._answers([str(line) for line in lines["text"]])
        texts, errors = zip(*answers, strict=True)
        return {"prompt": lines["text"], "text": list(texts), "error": list(errors)}

    def _answers(self, prompts: list[str]) -> list[tuple[str, str]]:
        try:
            found = self.lm.generate(prompts, max_new_tokens=60, temperature=0, stop="\n\n")
        except edgegpt.InvalidInputError as error:  # one of them is to blame
            if len(prompts) == 1:
                return [("", str(error))]
            return [answer for prompt in prompts for answer in self._answers([prompt])]
        return [(result.text or "", "") for result in found]


class Judge(Model):
    """Evaluates pieces of a text, as `edgegpt eval` does a whole one."""

    def __call__(self, pieces: Columns) -> Columns:
        """Return the sum of the losses of a piece, in nats, and how many they are."""
        assert self.lm.tokenizer is not None
        ids = self.lm.tokenizer.encode(str(pieces["text"][0]))
        if len(ids) < 2:
            return {"nats": [0.0], "tokens": [0]}
        result = evaluate_model(self.lm, ids)
        return {"nats": [result.loss * result.tokens], "tokens": [result.tokens]}


def pieces(files: Columns) -> Iterator[Columns]:
    """Yield the pieces of files; where they begin does not depend on the cluster."""
    for path in files["item"]:
        with open(str(path), encoding="utf-8", newline="") as file:
            while text := file.read(PIECE):
                yield {"text": [text]}


def write(source: str, target: str, **on_models: Any) -> None:
    """Write a folder of JSON lines, each with a prompt and the text that follows."""
    lines = ray.data.read_text(source)
    lines.map_batches(Writer, batch_size=ROWS, **on_models).write_json(target)


def evaluate(source: str, **on_models: Any) -> None:
    """Print the loss on all pieces of a file, or of the files in a folder."""
    files = sorted(Path(source).iterdir()) if Path(source).is_dir() else [Path(source)]
    paths = ray.data.from_items([str(file.absolute()) for file in files])
    results = paths.map_batches(pieces, batch_size=1).map_batches(Judge, batch_size=1, **on_models)
    nats, tokens = 0.0, 0
    for piece in results.iter_rows():
        nats, tokens = nats + piece["nats"], tokens + piece["tokens"]
    loss = nats / max(1, tokens)
    print(f"{loss:.5f} nats per token, perplexity {math.exp(loss):.4f}, {tokens:,} tokens")


def start() -> None:
    """Join the cluster of RAY_ADDRESS, or start Ray for this machine alone.

    Ray's head asks servers of three clouds over HTTP where it runs, whether its statistics are on
    or not. Here a proxy that does not exist keeps it from that.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        ray.init(address, logging_level="ERROR")
        return
    os.environ |= {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    ray.init(address, include_dashboard=False, logging_level="ERROR")


def work(what: str, bundle: str, wanted: str, *files: str) -> None:
    """Do what is asked with all cores of the cluster."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 2**20  # bytes; of what one process gets at a time
    most = max(1, int(ray.cluster_resources()["CPU"]))
    on_models = {
        "fn_constructor_args": (bundle, wanted),
        "compute": ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        "num_cpus": 1,
    }
    if what == "write":
        write(*files, **on_models)
    else:
        evaluate(*files, **on_models)


def main(what: str, bundle: str, *files: str) -> None:
    """Look at the bundle, have a cluster, and do what is asked."""
    bundle = os.path.abspath(bundle)
    wanted = Bundle.open(bundle).manifest.id
    start()
    work(what, bundle, wanted, *files)


if __name__ == "__main__":
    if len(sys.argv) != {"write": 5, "eval": 4}.get(" ".join(sys.argv[1:2])):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (edgegpt.EdgeGPTError, ConnectionError, ray.exceptions.AuthenticationError) as error:
        sys.exit(f"error: {error}")
