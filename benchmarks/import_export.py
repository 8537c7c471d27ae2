"""Time and memory of an export at real sizes, with random weights, as JSON and a table.

    python benchmarks/import_export.py [--shape 135m 0.6b 1.1b 3b] [--precision float32 int4]
        [--block 2048] [--folder build/import_export] [--out benchmarks/results/export-DATE.json]

The checkpoints have bfloat16 weights, a byte-level BPE tokenizer trained on CPython's topics, and
no text, like imported ones. They are written tensor by tensor, and stay in the folder for another
run.
Each export is a process of its own; its bundle is deleted. Peak memory is the largest resident set
of the process, files that it has mapped included.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgegpt.checkpoint import save_config
from edgegpt.model import GPTConfig
from edgegpt.model_weights import skeleton
from edgegpt.tensor_file import layout_of, raw_bytes, write_tensors

LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "proj_bias": False,
    "ff_bias": False,
}
SHAPES: dict[str, dict[str, object]] = {
    "135m": {  # SmolLM2-135M
        "n_layer": 30,
        "n_head": 9,
        "n_kv_head": 3,
        "n_embd": 576,
        "n_ff": 1536,
        "vocab_size": 49152,
        "tie_embeddings": True,
    },
    "0.6b": {  # Qwen3-0.6B
        "n_layer": 28,
        "n_head": 16,
        "n_kv_head": 8,
        "head_dim": 128,
        "qk_norm": "head",
        "n_embd": 1024,
        "n_ff": 3072,
        "vocab_size": 151936,
        "tie_embeddings": True,
    },
    "1.1b": {  # TinyLlama
        "n_layer": 22,
        "n_head": 32,
        "n_kv_head": 4,
        "n_embd": 2048,
        "n_ff": 5632,
        "vocab_size": 32000,
    },
    "3b": {  # Qwen2.5-3B, without its biases
        "n_layer": 36,
        "n_head": 16,
        "n_kv_head": 2,
        "n_embd": 2048,
        "n_ff": 11008,
        "vocab_size": 151936,
        "tie_embeddings": True,
    },
}
VOCABULARY = 4096  # of the tokenizer
SPREAD = 0.02  # standard deviation of the weights
GIGA = 1e9


@dataclass(frozen=True)
class Run:
    """One export: wall and CPU seconds, and GB."""

    shape: str
    precision: str
    block: int
    parameters: int
    wall: float
    cpu: float
    peak: float
    bundle: float
    error: str = ""

    @property
    def float32(self) -> float:
        """GB of the weights in float32."""
        return self.parameters * 4 / GIGA


def make_checkpoint(folder: Path, shape: str, block: int) -> None:
    """Write a checkpoint with random weights, unless the folder has one."""
    config = GPTConfig.from_dict(LLAMA | SHAPES[shape] | {"block_size": block})
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder, config)
    text = "\n".join(topics.values())
    (folder / "tokenizer.json").write_text(_tokenizer(text).to_str(), encoding="utf-8")
    path = folder / "model.safetensors"
    if path.exists():
        return
    layouts = {
        name: layout_of(weight.to(torch.bfloat16))
        for name, weight in skeleton(config).named_parameters()
    }
    generator = torch.Generator().manual_seed(0)

    def read(name: str) -> NDArray[np.uint8]:
        weight = torch.ones(layouts[name].shape)
        if weight.dim() == 2:
            weight.normal_(std=SPREAD, generator=generator)
        return raw_bytes(weight.bfloat16())

    write_tensors(path, layouts, read)


def _tokenizer(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def export(checkpoint: Path, shape: str, precision: str, block: int) -> Run:
    """Export in a process of its own."""
    config = GPTConfig.from_dict(json.loads((checkpoint / "config.json").read_bytes())["model"])
    bundle = checkpoint.with_name(f"{checkpoint.name}-{precision}")
    command = [sys.executable, "-m", "edgegpt", "export", str(checkpoint), "--out", str(bundle)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--force", "--json", "--precision", precision],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    size = sum(file.stat().st_size for file in bundle.iterdir()) if bundle.exists() else 0
    shutil.rmtree(bundle, ignore_errors=True)
    return Run(
        shape=shape,
        precision=precision,
        block=block,
        parameters=skeleton(config).parameter_count(),
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * 1024 / GIGA,
        bundle=size / GIGA,
        error=told.strip().splitlines()[-1] if status and told.strip() else "",
    )


def table(runs: list[Run]) -> str:
    """Return the runs as a Markdown table."""
    lines = [
        "| shape | precision | block | wall s | CPU s | float32 GB | peak GB | peak / float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.shape} | {run.precision} | {run.block} | {run.wall:.0f} | {run.cpu:.0f} "
        f"| {run.float32:.2f} | {run.peak:.2f} | {run.peak / run.float32:.2f} |"
        + (f" {run.error}" if run.error else "")
        for run in runs
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the shapes and precisions that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--precision", nargs="+", default=["float32", "int4"])
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=Path("build/import_export"))
    parser.add_argument("--out", type=Path, help="JSON file; the table goes beside it")
    args = parser.parse_args()
    runs = []
    for shape in args.shape:
        checkpoint = args.folder / f"{shape}-{args.block}"
        make_checkpoint(checkpoint, shape, args.block)
        for precision in args.precision:
            runs.append(export(checkpoint, shape, precision, args.block))
            print(table(runs[-1:]).splitlines()[-1], flush=True)
    print(table(runs))
    if args.out is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        found = {"date": date.today().isoformat(), "machine": machine}
        document = found | {"runs": [asdict(run) for run in runs]}
        args.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(table(runs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
