"""The programs of examples/python, run as a reader would run them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import edgegpt
from edgegpt.export import export_bundle
from edgegpt.export.settings import ExportSettings

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "examples" / "python"
PROMPTS = ("The wind", "'Who goes?'", "No answer")


def run(
    name: str, *arguments: object, stdin: str = "", status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAMS / name, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def lm(small_bundle: Path):
    with edgegpt.load(small_bundle) as model:
        yield model


def test_every_program_is_run_here_and_named_in_the_readme() -> None:
    here, readme = Path(__file__).read_text(), (ROOT / "examples" / "README.md").read_text()
    programs = [path.name for path in PROGRAMS.glob("*.py")]
    assert len(programs) == 6
    for name in programs:
        assert f'run("{name}"' in here, name
        assert f"`{name}`" in readme, name


def test_a_text_is_generated(small_bundle: Path, lm) -> None:
    said = run("generate.py", small_bundle, "The wind").stdout
    text = lm.generate("The wind", max_new_tokens=100, temperature=0.8, seed=1).text
    assert said.startswith(f"The wind{text}\n[length, seed 1, ")


def test_a_text_is_streamed_and_can_be_made_again_by_its_seed(small_bundle: Path, lm) -> None:
    said = run("stream.py", small_bundle, "The wind").stdout
    text, _, told = said.rpartition("\n[")
    assert told.startswith("300 tokens, length, seed ")
    seed = int(told.removesuffix("]\n").rpartition(" ")[2])
    again = lm.generate("The wind", max_new_tokens=300, temperature=0.8, seed=seed)
    assert text == f"The wind{again.text}"


def test_ctrl_c_ends_a_stream_politely(small_bundle: Path) -> None:
    command = [sys.executable, PROGRAMS / "stream.py", small_bundle, "The wind"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as program:
        assert program.stdout is not None
        said = program.stdout.read(len("The wind") + 1)
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=120)
    assert said.startswith("The wind")
    assert errors == ""
    # a fast machine may have written all of it before the signal came
    assert "tokens, closed, seed" in rest or "[300 tokens, length" in rest
    assert program.returncode == 0


def test_lines_are_continued_in_batches_and_in_order(small_bundle: Path, lm) -> None:
    lines = [prompt for prompt in PROMPTS * 7 if prompt]
    said = run("batch.py", small_bundle, stdin="\n\n".join(lines)).stdout.splitlines()
    expected = lm.generate(list(PROMPTS), max_new_tokens=60, temperature=0, stop="\n\n")
    assert [json.loads(line)["prompt"] for line in said] == lines
    assert [json.loads(line)["text"] for line in said] == [one.text for one in expected] * 7


def test_lines_are_translated(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(
        ROOT / "models" / "spoken-numbers", bundle, settings=ExportSettings(lowerings=("ort",))
    )
    said = run("translate.py", bundle, stdin="$12.50\nthree hundred thousand\n").stdout
    assert "$12.50 -> twelve dollars and fifty cents\n" in said
    assert "three hundred thousand -> 300000\n" in said
    assert said.count("  or, with a score of -") == 2


def test_the_likeliest_answer_comes_first(small_bundle: Path, lm) -> None:
    answers = ["rain", "wind", "friend or stranger"]
    said = run("score.py", small_bundle, "The ", *answers).stdout.splitlines()
    scores = lm.score("The ", answers)
    mean = {answer: sum(one) / len(one) for answer, one in zip(answers, scores, strict=True)}
    assert [line[10:] for line in said] == sorted(answers, key=mean.get, reverse=True)
    assert float(said[0][:8]) == pytest.approx(max(mean.values()), abs=1e-3)


def test_threads_share_a_model(small_bundle: Path, lm) -> None:
    said = run("threads.py", small_bundle, *PROMPTS).stdout
    texts = [lm.generate(one, max_new_tokens=60, temperature=0).text for one in PROMPTS]
    assert said == "".join(f"{p}{t}\n---\n" for p, t in zip(PROMPTS, texts, strict=True))


@pytest.mark.parametrize("name", ["generate.py", "stream.py", "score.py", "threads.py"])
def test_what_is_wrong_is_one_sentence(name: str, small_bundle: Path) -> None:
    assert run(name, "nowhere", "x", status=1).stderr == "error: no bundle at nowhere\n"
    told = run(name, small_bundle, "snow ☃", status=1).stderr if name != "score.py" else ""
    assert told.count("\n") <= 1
    assert "Traceback" not in told
    assert run(name, status=1).stderr.startswith((PROGRAMS / name).read_text()[3:30])
