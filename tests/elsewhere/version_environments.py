"""Make environments with the oldest and the newest packages allowed: `python … FOLDER`.

Each gets edgegpt as a wheel with what a device may need (`DEVICE`). pip chooses the newest packages
itself. The oldest are the lower bounds in pyproject.toml, on the oldest Python that is found. The
next Python gets those of what trains and exports (`MAKER`: gigabytes with PyTorch, unless pip knows
its CPU builds), and the oldest ONNX Runtime that runs all precisions. `PYTHONS` names the
interpreters, by default all versions from 3.10 on that PATH has.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DEVICE = ("cpu", "chat", "serve")
MAKER = (*DEVICE, "train", "export")
PYTHONS = "python3.10 python3.11 python3.12 python3.13 python3.14"
ALL_PRECISIONS = "1.25.0"  # of onnxruntime: runtime/engines/support.py


def main(folder: Path, pip_args: Sequence[str]) -> None:
    """Make all environments in the folder, anew."""
    pythons = [name for name in os.environ.get("PYTHONS", PYTHONS).split() if shutil.which(name)]
    if not pythons:
        sys.exit(f"no environments: none of {os.environ.get('PYTHONS', PYTHONS)} is on PATH")
    shutil.rmtree(folder, ignore_errors=True)
    wheel = built(folder / "wheel")
    plans = {f"newest-{Path(name).name}": (name, DEVICE, []) for name in pythons}
    plans["oldest"] = (pythons[0], DEVICE, lower_bounds(wheel, DEVICE))
    if len(pythons) > 1:
        pins = [pin for pin in lower_bounds(wheel, MAKER) if not pin.startswith("onnxruntime==")]
        plans["oldest-maker"] = (pythons[1], MAKER, [*pins, f"onnxruntime=={ALL_PRECISIONS}"])
    for name, (python, extras, pins) in plans.items():
        print(f"{name}: {' '.join(pins) or 'what pip chooses'}", flush=True)
        wanted = f"edgegpt-toolkit[{','.join(extras)}] @ {wheel.resolve().as_uri()}"
        make(folder / name, python, [*pins, wanted], pip_args)


def built(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def lower_bounds(wheel: Path, extras: Sequence[str]) -> list[str]:
    """Return the packages that the wheel asks for with `extras`, each with its oldest version."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    pins = []
    for requirement in map(Requirement, lines or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            (least,) = [part.version for part in requirement.specifier if part.operator == ">="]
            pins.append(f"{requirement.name}=={least}")
    return pins


def make(folder: Path, python: str, wanted: Sequence[str], pip_args: Sequence[str]) -> None:
    """Make one environment with these requirements."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "-q", *pip_args]
    subprocess.run([*pip, *wanted], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
