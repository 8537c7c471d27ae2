"""Bundles of all precisions, and what this machine makes of them, to compare with elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from elsewhere import PRECISIONS, Tried
from small_models import small_config, write_checkpoint

from edgegpt.export import export_bundle
from edgegpt.model import GPT

TRIAL = Path(__file__).with_name("trial.py")
SPREAD = 0.1  # of the weights: with larger ones, near ties are everywhere in int4
SHAPE = {
    "block_size": 64,
    "n_embd": 64,
    "n_head": 4,
    "n_kv_head": 2,
    "n_ff": 160,
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "qkv_bias": False,
    "proj_bias": False,
    "ff_bias": False,
    "head_bias": False,
}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model in the layout of Llama, by precision."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    model = GPT(small_config(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(SPREAD * torch.randn_like(parameter))
    checkpoint = write_checkpoint(folder / "checkpoint", model)
    for precision in PRECISIONS:
        export_bundle(checkpoint, folder / precision, precision=precision)
    return {precision: folder / precision for precision in PRECISIONS}


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that runs a file with another Python, and returns the JSON it prints."""

    def run(python: Path, *words: object, **variables: str) -> Any:
        own = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")), "COLUMNS": "140"}
        environment = {**os.environ, **own, **variables}
        if python != Path(sys.executable):
            environment.pop("PYTHONPATH", None)  # that of this Python
        command = [python, *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=python.parent, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def tried(bundles: dict[str, Path], ran):
    """Return a function that runs the trial with another Python."""

    def run(python: Path, **variables: str) -> Tried:
        facts = ran(python, TRIAL, *bundles.values(), **variables)
        found = dict(zip(bundles, facts.pop("bundles").values(), strict=True))
        return Tried(**facts, by_precision=found)

    return run


@pytest.fixture(scope="session")
def here(tried) -> Tried:
    """What this Python makes of the bundles."""
    return tried(Path(sys.executable))
