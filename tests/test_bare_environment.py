"""A device without PyTorch: a virtual environment with the packages of `cpu` and `chat` only.

A requirement that is not declared is missing in it.
"""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from environments import ROOT, built_wheel, copied_source, environment
from small_models import TEXT

from edgegpt.runtime.bundle.bundle import Bundle


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return built_wheel(copied_source(folder), folder)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    return environment(tmp_path_factory.mktemp("bare"), wheel, "cpu", "chat")


@pytest.fixture(scope="session")
def python_without_engine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    return environment(tmp_path_factory.mktemp("without"), wheel)


def _run(python: Path, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [python, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=python.parent, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "onnx_ir"])
def test_the_environment_is_bare(bare_python: Path, package: str) -> None:
    assert "ModuleNotFoundError" in _run(bare_python, "-c", f"import {package}", status=1).stderr


def test_every_runtime_module_can_be_imported(bare_python: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "edgegpt" / "runtime").rglob("*.py")
        if path.parent.name != "server"  # which needs an extra of its own
    ]
    _run(bare_python, "-c", "\n".join(f"import {n.removesuffix('.__init__')}" for n in names))


def test_verify_passes(bare_python: Path, small_bundle: Path) -> None:
    done = _run(bare_python, "-m", "edgegpt", "verify", small_bundle, "--json")
    receipt = json.loads(done.stdout)
    assert receipt["passed"] is True
    assert len(receipt["checks"]) == 19


def test_generate_writes_the_same_text_as_here(bare_python: Path, small_bundle: Path) -> None:
    arguments = [
        "-m",
        "edgegpt",
        "generate",
        small_bundle,
        "--prompt",
        "The wind",
        "-t",
        "0",
        "--json",
    ]
    there = json.loads(_run(bare_python, *arguments).stdout)
    here = json.loads(_run(Path(sys.executable), *arguments).stdout)
    assert there["token_ids"] == here["token_ids"]
    assert len(there["token_ids"]) == 200


CHAT = "\n".join(
    (
        "from edgegpt.runtime.text.chat_template import ChatTemplate",
        "template = ChatTemplate('{% for m in messages %}{{ m.role }}{% endfor %}', 'x', {})",
        "print(template.render([{'role': 'user'}]))",
    )
)


def test_a_chat_template_is_rendered(bare_python: Path, python_without_engine: Path) -> None:
    assert _run(bare_python, "-c", CHAT).stdout == "user\n"
    told = _run(python_without_engine, "-c", CHAT, status=1).stderr
    assert 'chat templates need jinja2: pip install "edgegpt-toolkit[chat]"' in told


def test_eval_measures(bare_python: Path, small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["-m", "edgegpt", "eval", small_bundle, "--data", tmp_path / "text.txt", "--json"]
    there, here = (
        json.loads(_run(python, *arguments).stdout)["loss"]
        for python in (bare_python, Path(sys.executable))
    )
    assert there == here


def test_bench_measures(bare_python: Path, small_bundle: Path) -> None:
    settings = ["--repeats", "1", "--tokens", "2", "--depths", "4", "--batches", "1", "--json"]
    done = _run(bare_python, "-m", "edgegpt", "bench", small_bundle, *settings)
    assert json.loads(done.stdout)["bundle"] == Bundle.open(small_bundle).manifest.id


def test_doctor_finds_the_engine(bare_python: Path, small_bundle: Path) -> None:
    done = _run(bare_python, "-m", "edgegpt", "doctor", small_bundle, "--json")
    found = json.loads(done.stdout)
    assert found["works"] is True
    assert found["machine"]["onnxruntime"]["version"] == metadata.version("onnxruntime")
    assert found["bundle"]["id"] == Bundle.open(small_bundle).manifest.id


def test_doctor_works_without_an_engine_and_says_how_to_get_one(
    python_without_engine: Path, small_bundle: Path
) -> None:
    for arguments in ([], [small_bundle]):
        done = _run(python_without_engine, "-m", "edgegpt", "doctor", *arguments, status=1)
        assert "ONNX Runtime missing not installed" in " ".join(done.stdout.split())
        assert 'pip install "edgegpt-toolkit[c' in done.stdout  # cpu, or cuda if there is a GPU
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["export", "nowhere", "--out", "b"], "export"), (["train", "--help"], "train,export")],
)
def test_what_needs_pytorch_says_how_to_get_it(
    bare_python: Path, command: list[str], extra: str
) -> None:
    done = _run(bare_python, "-m", "edgegpt", *command, status=1)
    assert f"edgegpt-toolkit[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
