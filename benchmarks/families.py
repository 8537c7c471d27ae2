"""Every family through every lowering, beside transformers: largest errors, and greedy texts.

    python benchmarks/families.py [--family llama gemma2 ...] [--out benchmarks/results/families.md]

The models are the small random ones of the tests, at least one for each family. transformers writes
a checkpoint and computes the logits. The checkpoint is imported and exported in float32; PyTorch
and each lowering are then fed a batch of three texts in pieces. This takes some minutes on a CPU.
"""

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

import edgegpt
from edgegpt.export import export_bundle
from edgegpt.export.lowerings import LOWERINGS
from edgegpt.importers.architectures import FAMILIES
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import Engine
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.machine import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import layernorm_configs
import llama_configs
import rmsnorm_configs
from feeding import fed, greedy, relative_error
from tiny_checkpoints import GREEDY_TOKENS, LIMIT, PROMPT, greedy_text, imported, save_tiny
from torch_engine import TorchEngine

CASES = llama_configs.CASES | rmsnorm_configs.CASES | layernorm_configs.CASES
DECODERS = [name for name, family in FAMILIES.items() if not family.pair]
# New tokens of each row in each step: a prompt, a chunk, single tokens past the edges of the
# windows (8 and 20), a chunk, single tokens past position 64, where YaRN's original length ends,
# and what is left of 80, the length to which LongRoPE and Ministral 3 are cut.
SINGLES = [(1, 1, 1)] * 8
FEEDS = [(9, 1, 14), (5, 7, 2), *SINGLES, (38, 45, 35), *SINGLES, (11, 9, 10), (1, 1, 1)]
LENGTH = 80
NAMES = ["PyTorch", *(lowering.name for lowering in LOWERINGS)]


@dataclass(frozen=True)
class Row:
    """One model: by engine, its error, or why it has none; and the engines with another text."""

    family: str
    model: str
    errors: dict[str, float]
    obstacles: dict[str, str]
    differing: list[str]


def engines(ours: GPT, bundle: Bundle) -> Iterator[tuple[str, Engine]]:
    """Return what computes the model here, by name."""
    yield NAMES[0], TorchEngine(ours)
    for lowering in local_lowerings(bundle):
        yield lowering, open_engine(bundle, EngineOptions(threads=1), lowering=lowering)


@torch.no_grad()
def measured(model: str, folder: Path) -> Row:
    """Make the checkpoint of a case, import and export it, and compare all logits and texts."""
    theirs = save_tiny(CASES[model], folder / "source")
    ours, _ = imported(folder / "source", folder / "checkpoint")
    export_bundle(folder / "checkpoint", folder / "bundle")
    rows = np.random.default_rng(0).integers(3, ours.config.vocab_size, (3, LENGTH))
    wanted, text = theirs(torch.from_numpy(rows)).logits.numpy(), greedy_text(theirs)
    errors, differing = {}, []
    for name, engine in engines(ours, Bundle.open(folder / "bundle")):
        state = engine.new_state(len(rows), LENGTH)
        errors[name] = relative_error(fed(state, rows, FEEDS), wanted)
        if greedy(state, PROMPT, GREEDY_TOKENS) != text:
            differing.append(name)
        engine.close()
    obstacles = {one.name: one.obstacle(ours.config) for one in LOWERINGS}
    known = {name: reason for name, reason in obstacles.items() if reason is not None}
    return Row(CASES[model].model_type, model, errors, known, differing)


def table(rows: list[Row], others: list[str]) -> str:
    """Return the rows as a Markdown table, with `others`, which transformers does not have."""
    reasons = list(dict.fromkeys(why for row in rows for why in row.obstacles.values()))
    lines = [f"| family | model | {' | '.join(NAMES)} | {GREEDY_TOKENS} greedy tokens |"]
    lines += ["|---" * (len(NAMES) + 3) + "|"]
    for row in rows:
        cells = [
            f"{row.errors[name]:.1e}"
            if name in row.errors
            else f"no ({reasons.index(row.obstacles[name]) + 1})"
            for name in NAMES
        ]
        text = f"differ: {', '.join(row.differing)}" if row.differing else "equal"
        lines.append(f"| {row.family} | {row.model} | {' | '.join(cells)} | {text} |")
    lines += [
        f"| {family} | a file format; transformers has no class |" + " - |" * (len(NAMES) + 1)
        for family in others
    ]
    notes = [f"({number}) {reason}." for number, reason in enumerate(reasons, start=1)]
    return "\n\n".join(["\n".join(lines), *notes])


def heading() -> str:
    """Return what the table shows, and on which machine."""
    machine = Machine.here()
    libraries = (edgegpt, torch, onnxruntime, transformers)
    versions = ", ".join(f"{one.__name__} {one.__version__}" for one in libraries)
    return (
        f"# Families and lowerings beside transformers, {date.today().isoformat()}\n\n"
        f"{machine.cpu}, {machine.physical_cores} cores, {machine.system}; Python "
        f"{platform.python_version()}, {versions}.\n\n"
        f"Small random models in float32, imported and exported. A cell has the largest difference "
        f"from transformers' logits, divided by their largest: a batch of three texts of different "
        f"length is fed in pieces, past the edge of the windows and past position 64, up to "
        f"{LENGTH} tokens. PyTorch is the imported model on its cached path; the lowerings run in "
        f"ONNX Runtime on the CPU. The tests' limit is {LIMIT:.0e}."
    )


def main() -> None:
    """Measure the families that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="+", choices=DECODERS, default=DECODERS)
    parser.add_argument("--out", type=Path, help="Markdown file; without it, standard output")
    args = parser.parse_args()
    rows: list[Row] = []
    for family in args.family:
        for model in (name for name, config in CASES.items() if config.model_type == family):
            print(f"{family}: {model}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(model, Path(folder)))
    others = [family for family in args.family if all(row.family != family for row in rows)]
    document = f"{heading()}\n\n{table(rows, others)}\n"
    if args.out is None:
        print(document, end="")
    else:
        args.out.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
