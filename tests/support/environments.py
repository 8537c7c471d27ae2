"""Virtual environments that are put together offline.

One has the project as a wheel, regular or editable, and, for each requirement that the wheel
declares, the files of the distribution that is installed here.
"""

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def copied_source(folder: Path) -> Path:
    """Return a copy of the source tree: building leaves files in it."""
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "tests", "benchmarks", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=unwanted, symlinks=True)
    return source


def built_wheel(source: Path, folder: Path, *, editable: bool = False) -> Path:
    """Build a wheel of the source tree in `folder`, with the setuptools that is installed here."""
    build = "build_editable" if editable else "build_wheel"
    code = f"import sys; from setuptools import build_meta; build_meta.{build}(sys.argv[1])"
    command = [sys.executable, "-c", code, folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path, *extras: str, tools: tuple[str, ...] = ()) -> Path:
    """Make an environment with the wheel and what it requires with `extras`; return its Python.

    `tools` are other distributions, which have to be installed here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    needed = {name for extra in ("", *extras) for name in _closure(["edgegpt-toolkit"], extra)}
    needed |= _closure(list(tools), "")
    for distribution in needed - {"edgegpt-toolkit"}:
        _link(distribution, site)
    return python


def _closure(requirements: list[str], extra: str) -> set[str]:
    """Return the names of all distributions that the requirements need, themselves included."""
    found: set[str] = set()
    todo = [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name not in found:
            found.add(requirement.name)
            todo += [Requirement(line) for line in metadata.requires(requirement.name) or []]
    return found


def _link(distribution: str, site: Path) -> None:
    """Make the top-level files and folders of an installed distribution visible in `site`."""
    files = metadata.distribution(distribution)
    for file in files.files or []:
        top = file.parts[0]
        if top not in ("..", "__pycache__") and not (site / top).exists():
            (site / top).symlink_to(Path(str(files.locate_file(top))))
