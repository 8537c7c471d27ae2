"""Time and memory of import and export at real sizes, with random weights, as JSON and a table.

    python benchmarks/import_export.py [--shape 135m 0.6b 1.1b 3b] [--step import float32 int4]
        [--block 2048] [--folder build/import_export] [--out benchmarks/results/export-DATE.json]

The shapes marian, flan-t5-base, mt5-small and bart-large are encoder-decoders.

The sources are folders as transformers writes them, with bfloat16 weights and a byte-level BPE
tokenizer trained on CPython's topics. They are written tensor by tensor, and stay in the folder
for another run.
Each step is a process of its own; what it writes is deleted. Peak memory is the largest resident
set of the process, files that it has mapped included.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    LlamaConfig,
    MarianConfig,
    MT5Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from edgegpt.checkpoint import load_checkpoint
from edgegpt.model_weights import skeleton
from edgegpt.tensor_file import layout_of, raw_bytes, write_tensors

GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SHAPES: dict[str, PretrainedConfig] = {
    "135m": LlamaConfig(  # SmolLM2-135M
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "0.6b": Qwen3Config(  # Qwen3-0.6B
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "1.1b": LlamaConfig(  # TinyLlama
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000,
    ),
    "3b": Qwen2Config(  # Qwen2.5-3B
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "marian": MarianConfig(  # OPUS-MT of two languages
        vocab_size=58101,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        activation_function="swish",
        scale_embedding=True,
        decoder_start_token_id=58100,
        pad_token_id=58100,
    ),
    "flan-t5-base": T5Config(
        vocab_size=32128, d_model=768, d_ff=2048, num_layers=12, num_heads=12, **GATED
    ),
    "mt5-small": MT5Config(
        vocab_size=250112, d_model=512, d_ff=1024, num_layers=8, num_heads=6, **GATED
    ),
    "bart-large": BartConfig(vocab_size=50265),
}
STEPS = ["import", "float32", "float16", "int8", "int4"]
VOCABULARY = 4096  # of the tokenizer
SPREAD = 0.02  # standard deviation of the weights
GIGA = 1e9


@dataclass(frozen=True)
class Run:
    """An import, or an export in a precision: wall and CPU seconds, and GB."""

    shape: str
    step: str
    block: int
    parameters: int
    wall: float
    cpu: float
    peak: float
    written: float
    error: str = ""

    @property
    def float32(self) -> float:
        """GB of the weights in float32."""
        return self.parameters * 4 / GIGA


def make_source(folder: Path, shape: str, block: int) -> None:
    """Write a folder as transformers does, with random bfloat16 weights, unless there is one."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(topics.values())
    (folder / "tokenizer.json").write_text(_tokenizer(text).to_str(), encoding="utf-8")
    config = copy(SHAPES[shape])
    if hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = block
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config, dtype=torch.bfloat16)
    layouts = {name: layout_of(weight) for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)

    def read(name: str) -> NDArray[np.uint8]:
        weight = torch.ones(layouts[name].shape)
        if weight.dim() == 2 or name.endswith("bias"):
            weight.normal_(std=SPREAD, generator=generator)
        return raw_bytes(weight.bfloat16())

    write_tensors(folder / "model.safetensors", layouts, read)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)  # last, so that a folder that has it is whole


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


def measure(shape: str, step: str, block: int, parameters: int, command: list[str]) -> Run:
    """Run a command of edgegpt, whose last word is the folder that it writes, as a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgegpt", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall, out = time.perf_counter() - begin, Path(command[-1])
    written = sum(file.stat().st_size for file in out.iterdir()) if out.exists() else 0
    return Run(
        shape=shape,
        step=step,
        block=block,
        parameters=parameters,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * 1024 / GIGA,
        written=written / GIGA,
        error=told.strip().splitlines()[-1] if status and told.strip() else "",
    )


def runs_of(shape: str, steps: list[str], block: int, folder: Path) -> Iterator[Run]:
    """Yield an import and an export for each precision among `steps`; delete what they wrote."""
    source = folder / f"{shape}-{block}-source"
    make_source(source, shape, block)
    checkpoint, bundle = folder / f"{shape}-{block}", folder / f"{shape}-{block}-bundle"
    shutil.rmtree(checkpoint, ignore_errors=True)
    command = ["import", str(source), "--out", str(checkpoint)]
    imported = measure(shape, "import", block, 0, command)
    if imported.error:
        raise SystemExit(imported.error)
    parameters = skeleton(load_checkpoint(checkpoint).config).parameter_count()
    if "import" in steps:
        yield replace(imported, parameters=parameters)
    for step in steps:
        if step != "import":
            command = ["export", str(checkpoint), "--force", "--precision", step]
            yield measure(shape, step, block, parameters, [*command, "--out", str(bundle)])
            shutil.rmtree(bundle, ignore_errors=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def table(runs: list[Run]) -> str:
    """Return the runs as a Markdown table."""
    lines = [
        "| shape | step | block | wall s | CPU s | float32 GB | peak GB | peak / float32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.shape} | {run.step} | {run.block} | {run.wall:.0f} | {run.cpu:.0f} "
        f"| {run.float32:.2f} | {run.peak:.2f} | {run.peak / run.float32:.2f} |"
        + (f" {run.error}" if run.error else "")
        for run in runs
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure the shapes and precisions that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["135m"])
    parser.add_argument("--step", nargs="+", choices=STEPS, default=["import", "float32", "int4"])
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--folder", type=Path, default=Path("build/import_export"))
    parser.add_argument("--out", type=Path, help="JSON file; the table goes beside it")
    args = parser.parse_args()
    runs = []
    for shape in args.shape:
        for run in runs_of(shape, args.step, args.block, args.folder):
            runs.append(run)
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
