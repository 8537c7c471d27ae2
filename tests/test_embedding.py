"""Every block of docs/embedding.md is run; those under PyInstaller in tests/long."""

import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from environments import ROOT
from page_blocks import Block, blocks

BLOCKS = blocks(ROOT / "docs" / "embedding.md")
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
APP = ROOT / "examples" / "fastapi" / "app.py"


def the(heading: str, language: str) -> Block:
    (block,) = (one for one in BLOCKS if (one.heading, one.language) == (heading, language))
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, page_bundle: Path) -> Path:
    """A folder with a bundle and the web service."""
    made = tmp_path_factory.mktemp("embedding")
    shutil.copytree(page_bundle, made / "bundle")
    shutil.copy(APP, made / "app.py")
    return made


def test_the_page_has_no_block_that_no_test_runs() -> None:
    assert [(one.heading, one.language) for one in BLOCKS] == [
        ("Inside a program", "python"),
        ("Threads", "python"),
        ("Processes", "python"),
        ("asyncio and FastAPI", "python"),
        ("Services", "ini"),
        ("PyInstaller", "python"),
        ("PyInstaller", "sh"),
        ("Containers", "dockerfile"),
    ]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.heading)
def test_a_program_runs_and_writes_a_text(block: Block, folder: Path) -> None:
    (folder / "main.py").write_text(block.text)
    command = [sys.executable, "-W", "error", "main.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 50
    assert done.stderr == ""


def test_the_program_that_insists_on_a_proof_does_not_run_without_one(folder: Path) -> None:
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "no receipts")}
    shutil.copytree(folder / "bundle", folder / "unproved")
    (folder / "unproved" / "receipt.json").unlink()
    text = the("Inside a program", "python").text.replace('"bundle"', '"unproved"')
    command = [sys.executable, "-c", text]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "EdgeGPTWarning" in done.stderr.splitlines()[-1]


@contextmanager
def running(command: list[str], environment: dict[str, str], port: int) -> Iterator[None]:
    """Run a server until it answers; end it with SIGTERM, as systemd and Docker do."""
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, -15), errors.decode()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def health(port: int) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=120) as answer:
        return json.load(answer)


def here(command: list[str], port: int) -> list[str]:
    """Take the programs of this environment, and a port that is free."""
    name, *arguments = command
    arguments = [str(port) if one == "8000" else one for one in arguments]
    return [sys.executable, "-m", Path(name).name, *arguments]


def test_the_service_proves_its_bundle_and_serves_it(folder: Path) -> None:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install fastapi uvicorn")
    pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install fastapi uvicorn")
    unit = the("Services", "ini").text.replace("/opt/writer", str(folder))
    unit = re.sub(r"/var/(lib|cache)/writer", rf"{folder}/\1", unit)
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    service, port = parser["Service"], free_port()
    lines = re.findall("^Environment=(.*)$", unit, re.MULTILINE)
    environment = dict(one.split("=", 1) for line in lines for one in shlex.split(line))
    assert set(environment) == {"BUNDLE", "XDG_STATE_HOME", "XDG_CACHE_HOME"}
    proof = here(shlex.split(service["ExecStartPre"]), port)
    subprocess.run(proof, env=os.environ | environment, check=True, capture_output=True)
    with running(here(shlex.split(service["ExecStart"]), port), environment, port):
        assert health(port)["busy"] is False
    shutil.copytree(folder / "bundle", folder / "damaged")
    weights = folder / "damaged" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    damaged = [one.replace("/bundle", "/damaged") for one in proof]
    assert subprocess.run(damaged, check=False, capture_output=True).returncode == 1


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = the("Services", "ini").text
    unit = re.sub(r"/opt/writer/venv/bin/\w+", "/bin/true", unit)  # it looks for the programs
    (tmp_path / "writer.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "writer.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_container_s_command_serves_what_is_copied_into_it(folder: Path) -> None:
    """There is no Docker here: its command runs in a folder that stands for its root."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install fastapi uvicorn")
    pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install fastapi uvicorn")
    lines = [line.partition(" ") for line in the("Containers", "dockerfile").text.splitlines()]
    root = folder / "container"
    for copied in (arguments.split() for name, _, arguments in lines if name == "COPY"):
        source, target = folder / copied[0], root / copied[1].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    (variables,) = (arguments for name, _, arguments in lines if name == "ENV")
    pairs = (one.split("=", 1) for one in shlex.split(variables))
    environment = {name: f"{root}{value}" for name, value in pairs}
    (command,) = (json.loads(arguments) for name, _, arguments in lines if name == "CMD")
    command, port = [one.replace("/app", f"{root}/app") for one in command], free_port()
    with running(here(command, port), environment, port):
        assert health(port)["busy"] is False


def test_the_container_installs_extras_that_there_are() -> None:
    run = next(
        line for line in the("Containers", "dockerfile").text.splitlines() if line[:3] == "RUN"
    )
    (extra,) = re.findall(r'"edgegpt-toolkit\[(\w+)\]"', run)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extra in project["optional-dependencies"]
