"""Make what runs the runtime on an emulated ARM processor: `python arm_root.py FOLDER`.

The folder gets a Python and its libraries from Debian's packages, the packages that edgegpt asks
for, and `python`, which starts all this in qemu with the code of this checkout. Nothing is
installed on the machine, nobody needs to be root, and an emulated program can start another one.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMULATOR = "qemu-aarch64-static"
NEEDED = {EMULATOR: "qemu-user-static", "apt-get": "apt", "dpkg-deb": "dpkg"}
PACKAGES = ("python3", "libstdc++6")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
PINS = ROOT / "constraints.txt"
STARTER = """#!/bin/sh
export PYTHONHOME={home} PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1
exec {emulator} -L {system} -0 {starter} {python} "$@"
"""


class CannotError(Exception):
    """What is missing, in one sentence."""


def make(folder: Path, pip_args: Sequence[str] = ()) -> Path:
    """Make the folder anew and return its `python`."""
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            raise CannotError(f"there is no {program}: it is in Debian's package {package}")
    shutil.rmtree(folder, ignore_errors=True)
    system, site = folder / "system", folder / "site"
    for archive in fetched(folder / "apt"):
        run("dpkg-deb", "-x", archive, system)
    (python,) = (system / "usr/bin").glob("python3.*[0-9]")
    install(site, python.name.removeprefix("python"), pip_args)
    starter = folder / "python"
    path = f"{ROOT}:{site}"
    words = {"home": system / "usr", "system": system, "path": path, "python": python}
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    named = {"starter": shlex.quote(str(starter)), "emulator": EMULATOR}
    starter.write_text(STARTER.format(**quoted, **named))
    starter.chmod(0o755)
    return starter


def fetched(own: Path) -> list[Path]:
    """Fetch Debian's packages for ARM, with lists of their own beside those of the machine."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (own / name).mkdir(parents=True)
    (own / "status").touch()
    options = {
        "Dir::State": own / "state",
        "Dir::State::status": own / "status",
        "Dir::Cache": own / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    run(*apt, "update")
    run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    return sorted((own / "cache/archives").glob("*.deb"))


def install(site: Path, version: str, pip_args: Sequence[str]) -> None:
    """Install what edgegpt asks for, as wheels for ARM; a wheel of edgegpt itself says what."""
    pip = [sys.executable, "-m", "pip"]
    wheels = site.with_name("wheels")
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("*.whl")
    platforms = [f"--platform={name}" for name in PLATFORMS]
    how = ["--only-binary=:all:", f"--python-version={version}", f"--constraint={PINS}"]
    wanted = f"edgegpt-toolkit[cpu,chat,serve] @ {wheel.resolve().as_uri()}"
    run(*pip, "install", "-q", *pip_args, "--target", site, *platforms, *how, wanted)


def run(*command: object) -> None:
    """Run a program; if it fails, its last words become the error."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        name = " ".join(Path(word).name for word in words if not word.startswith("-"))
        raise CannotError(f"`{name:.80}` failed: {last}")


if __name__ == "__main__":
    try:
        print(make(Path(sys.argv[1]).resolve(), sys.argv[2:]))
    except CannotError as error:
        sys.exit(f"no emulated ARM processor: {error}")
