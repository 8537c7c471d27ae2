"""Ask the module of examples/web, in node, to do what tests compare with Python."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

__all__ = ["NODE", "WEB", "ask", "in_javascript", "module_with_packages", "needs_node"]

WEB = Path(__file__).parents[2] / "examples" / "web"
DRIVER = Path(__file__).with_name("web_driver.mjs")
PACKAGES = "EDGEGPT_NODE_MODULES"  # names a folder that has the npm packages
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="these tests of examples/web need node")


NAMES = {  # of settings, in JavaScript
    "top_k": "topK",
    "top_p": "topP",
    "min_p": "minP",
    "repetition_penalty": "repetitionPenalty",
    "max_new_tokens": "maxNewTokens",
    "end_ids": "endIds",
    "ignore_eos": "ignoreEos",
}


def in_javascript(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of Python for the driver; a seed is a text, since JSON rounds it."""
    changed = {NAMES.get(name, name): value for name, value in settings.items()}
    return changed | ({"seed": str(changed["seed"])} if "seed" in changed else {})


def ask(jobs: list[dict[str, Any]], folder: Path = WEB) -> list[dict[str, Any]]:
    """Return a "value", or an "error" and its "message", for each job; see web_driver.mjs."""
    done = subprocess.run(
        [str(NODE), str(DRIVER), str(folder)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def module_with_packages(folder: Path) -> Path:
    """Return a copy of the module in `folder` that finds the npm packages; skip if there are none.

    Node looks for packages beside the file that imports them.
    """
    packages = Path(os.environ.get(PACKAGES) or WEB / "node_modules")
    if NODE is None or not (packages / "onnxruntime-web").is_dir():
        pytest.skip(
            f"these tests need node and the npm packages of examples/web: run `npm ci` there, or "
            f"let {PACKAGES} name a folder that has them"
        )
    copy = folder / "web"
    shutil.copytree(WEB, copy, ignore=shutil.ignore_patterns("node_modules", "bundle"))
    (copy / "node_modules").symlink_to(packages.resolve())
    return copy
