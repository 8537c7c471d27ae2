"""Every family of encoder-decoders through every lowering, and beam search, beside transformers.

    python benchmarks/pair_families.py [--searches 16] [--out benchmarks/results/pair-families.md]

The models are the small random ones of the tests. transformers writes a checkpoint, computes the
logits and searches with four beams; the checkpoint is imported, exported in float32 and proved.
This takes some minutes on a CPU.
"""

import argparse
import platform
import sys
import tempfile
import warnings
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

import edgegpt
from edgegpt.checkpoint import load_checkpoint
from edgegpt.errors import EdgeGPTWarning
from edgegpt.export import export_bundle
from edgegpt.importers.importing import Named, survey, write_checkpoint
from edgegpt.runtime.machine import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from pair_configs import CASES, error, save_pair

BEAMS, NEW, LONGEST = 4, 8, 9
# T5's random models sum large numbers: over 512 tokens PyTorch's own float32 is 1e-5 off.
CONTEXT = 64
LOWERINGS = ("ort", "standard", "legacy")
SCORE = 2e-5  # of the largest logit


@dataclass(frozen=True)
class Row:
    """The figures of a model.

    Attributes:
        torch: error of the imported model's logits against transformers'.
        errors: largest error of a golden check by lowering, against PyTorch.
        same: searches with transformers' tokens and scores.
        ties: others, in which the engine noted a near tie.
        wrong: others.
    """

    torch: float
    errors: dict[str, float]
    same: int
    ties: int
    wrong: int


def measured(name: str, folder: Path, searches: int) -> Row:
    """Import, export and search with the model of a case."""
    theirs = save_pair(CASES[name], folder / "source")
    (folder / "checkpoint").mkdir()
    write_checkpoint(survey(Named(str(folder / "source"))), folder / "checkpoint")
    ours = load_checkpoint(folder / "checkpoint").model
    context = min(CONTEXT, ours.config.decoder.block_size)
    receipt = export_bundle(folder / "checkpoint", folder / "bundle", context=context)
    errors = dict.fromkeys(LOWERINGS, 0.0)
    for check in receipt.checks:
        first = check.name.split(" ")[0]
        lowering = first if first in LOWERINGS else receipt.lowering
        errors[lowering] = max(errors[lowering], check.difference.relative)
    counts = searched(theirs, folder / "bundle", searches)
    return Row(error(theirs, ours), errors, *counts)


def searched(
    theirs: transformers.PreTrainedModel, bundle: Path, count: int
) -> tuple[int, int, int]:
    """Search the same sources here and there; return how many are the same, ties, and wrong."""
    generator = np.random.default_rng(2)
    own = theirs.config.vocab_size
    sources = [
        generator.integers(3, own - 2, generator.integers(1, LONGEST + 1)).tolist()
        for _ in range(count)
    ]
    same = ties = wrong = 0
    with edgegpt.load(bundle) as model:
        found = model.generate(sources, num_beams=BEAMS, max_new_tokens=NEW)
        for source, result in zip(sources, found, strict=True):
            expected = theirs.generate(
                torch.tensor([source]),
                num_beams=BEAMS,
                max_new_tokens=NEW,
                do_sample=False,
                use_cache=False,  # which needs as many layers in the encoder as in the decoder
                output_scores=True,
                return_dict_in_generate=True,
            )
            ids = expected.sequences[0, 1:].tolist()
            largest = float(max(step.abs()[step.isfinite()].max() for step in expected.scores))
            near = abs(result.score - float(expected.sequences_scores[0])) <= SCORE * largest
            if ids[: len(result.token_ids)] == result.token_ids and near:
                same += 1
            elif result.first_near_tie is not None:
                ties += 1
            else:
                wrong += 1
    return same, ties, wrong


def table(rows: dict[str, Row]) -> str:
    """Return the rows as Markdown."""
    names = " | ".join(LOWERINGS)
    lines = [
        f"| model | PyTorch | {names} | searches equal | near ties | others |",
        "|---" * (5 + len(LOWERINGS)) + "|",
    ]
    for name, row in rows.items():
        cells = " | ".join(f"{row.errors[lowering]:.1e}" for lowering in LOWERINGS)
        lines.append(
            f"| {name} | {row.torch:.1e} | {cells} | {row.same} | {row.ties} | {row.wrong} |"
        )
    return "\n".join(lines)


def heading() -> str:
    """Return what the table shows, and on which machine."""
    machine = Machine.here()
    libraries = (edgegpt, torch, onnxruntime, transformers)
    versions = ", ".join(f"{one.__name__} {one.__version__}" for one in libraries)
    return (
        f"# Encoder-decoders, lowerings and searches beside transformers, "
        f"{date.today().isoformat()}\n\n"
        f"{machine.cpu}, {machine.physical_cores} cores, {machine.system}; Python "
        f"{platform.python_version()}, {versions}.\n\n"
        f"Small random models in float32. PyTorch: the imported model's logits on ragged sources "
        f"against transformers', relative to the largest. Lowerings: the worst check of the proof, "
        f"against PyTorch, in ONNX Runtime on the CPU. Searches: {BEAMS} beams, {NEW} new tokens; "
        f"equal in all tokens, and in the score within {SCORE:.0e} of the largest logit."
    )


def main() -> None:
    """Measure all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=16, help="sources for each model")
    parser.add_argument("--out", type=Path, help="Markdown file; without it, standard output")
    args = parser.parse_args()
    warnings.simplefilter("ignore", EdgeGPTWarning)
    rows = {}
    for name in CASES:
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measured(name, Path(folder), args.searches)
    document = f"{heading()}\n\n{table(rows)}\n"
    if args.out is None:
        print(document, end="")
    else:
        args.out.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
