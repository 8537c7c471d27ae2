"""The page of examples/web in headless Chromium: what it writes, how it looks, what it fetches.

EDGEGPT_SCREENSHOTS names a folder that keeps the screenshots.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from web import NODE, module_with_packages

import edgegpt
from edgegpt.export import ExportSettings, export_bundle

pytestmark = pytest.mark.long

MODEL = Path(__file__).parents[2] / "models" / "shakespeare-char"
SCRIPT = Path(__file__).with_name("web_page.mjs")
WRONG = {
    "graph=decoder.x": 'the bundle has no graph "decoder.x"; it has: decoder.ort',
    "threads=two": "threads is two; it must be a whole number from 1 to ",
    "threads=0": "threads is 0; it must be a whole number from 1 to ",
    "threads=5000": "threads is 5000; it must be a whole number from 1 to ",
    "backend=gpu": 'no backend "gpu"; there are: auto, wasm, webgpu',
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = module_with_packages(tmp_path_factory.mktemp("site"))
    if CHROMIUM is None or not (folder / "node_modules" / "playwright-core").is_dir():
        pytest.skip("these tests need Chromium, and playwright-core: run `npm ci` in examples/web")
    export_bundle(MODEL, folder / "bundle", settings=ExportSettings(target="web"))
    return folder


def used(site: Path, shots: Path, *more: str) -> dict[str, Any]:
    """Return what web_page.mjs tells."""
    command = [str(NODE), str(SCRIPT), str(site), str(CHROMIUM), str(shots), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_page_writes_stops_and_looks_right(site: Path, tmp_path: Path) -> None:
    shots = Path(os.environ.get("EDGEGPT_SCREENSHOTS") or tmp_path)
    found = used(site, shots, *WRONG)
    with edgegpt.load(site / "bundle") as model:
        text = model.generate("ROMEO:", max_new_tokens=100, temperature=0.8, seed=1).text
    assert found["text"] == f"ROMEO:{text}"
    assert found["wrong"] == ""
    assert re.fullmatch(r"decoder.ort in float32 runs on .*\(.+\)(, \d threads?)?", found["about"])
    assert found["told"].startswith("100 tokens, ")
    assert " tokens/s, the first after " in found["told"]
    assert "; stopped; " in found["halted"]
    assert found["refused"].startswith('the character "é" (U+00E9) at position 7')
    assert found["asked"] == "decoder.ort in float32 runs on wasm (it was asked for), 2 threads"
    for query, wrong in WRONG.items():
        assert found["misled"][query][0] == "The bundle did not open."
        assert found["misled"][query][1].startswith(wrong)
    assert found["unserved"].startswith("A part of this page cannot be loaded: run npm start in ")
    assert found["lost"][0] == "The bundle did not open."
    assert found["lost"][1].startswith("edgegpt.json is missing from the bundle http://")
    for name, look in found["looks"].items():
        assert look["width"] == int(name.split()[0])  # nothing has to be scrolled sideways
        assert look["unnamed"] == 0
    papers = {name: look["paper"] for name, look in found["looks"].items()}
    assert papers["390 light"] == papers["1280 light"] != papers["390 dark"]
    assert found["isolated"]
    assert found["elsewhere"] == []
    assert all((shots / f"{w}-{c}.png").is_file() for w in (390, 1280) for c in ("light", "dark"))


def test_webgpu_writes_the_same_text(site: Path, tmp_path: Path) -> None:
    found = used(site, tmp_path, "gpu")
    if "no WebGPU adapter" in found["wrong"]:
        pytest.skip(f"this Chromium has none: {found['wrong']}")
    assert found["about"].startswith("decoder.ort in float32 runs on webgpu")
    with edgegpt.load(site / "bundle") as model:
        text = model.generate("ROMEO:", max_new_tokens=8).text
    assert found["text"] == f"ROMEO:{text}"
