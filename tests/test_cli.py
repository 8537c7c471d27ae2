"""The command line: its outputs, its exit codes, and errors for bad input without tracebacks."""

import io
import json
from pathlib import Path

import click
import pytest

import edgegpt
from edgegpt.cli import COMMANDS, cli, main
from edgegpt.commands.given_path import GivenPath
from edgegpt.errors import EngineError, ExportError
from edgegpt.export import ExportSettings
from edgegpt.model import GPT

PROMPT = "The wind"


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return invoke


def test_help_lists_every_command(run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    assert all(name in outcome.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(run, name: str) -> None:
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out


def test_the_version_is_printed(run) -> None:
    assert edgegpt.__version__ in run("--version").out


@pytest.mark.parametrize("name", ["\udcff", "a\nb", ""])
def test_a_name_that_no_answer_can_have_is_refused_before_the_bundle_is_opened(
    run, name: str
) -> None:
    outcome = run("serve", "no-bundle", "--name", name)
    assert outcome.code == 1
    assert f"the model's name would be {name!a}; give another --name" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--host", "--allow-host"])
def test_an_empty_host_is_not_every_address(run, option: str) -> None:
    outcome = run("serve", "no-bundle", option, "")
    assert outcome.code == 1
    assert "a --host or --allow-host is empty" in outcome.err


@pytest.mark.parametrize("arguments", [["sing"], ["generate"], ["generate", "b", "--loud"]])
def test_wrong_usage_exits_with_2(run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage" in outcome.err


def test_generate_prints_the_prompt_and_the_text(run, small_bundle: Path) -> None:
    outcome = run("generate", small_bundle, "-p", PROMPT, "-n", 40, "-t", 0)
    with edgegpt.load(small_bundle) as model:
        expected = model.generate(PROMPT, max_new_tokens=40).text
    assert outcome.out == f"{PROMPT}{expected}\n"
    assert "tokens/s" in outcome.err


def test_generate_passes_every_setting_on(run, small_bundle: Path) -> None:
    settings = {
        "max_new_tokens": 60,
        "temperature": 1.5,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "seed": 7,
        "stop": "e",
        "overflow": "stop",
    }
    options = [
        part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    found = json.loads(run("generate", small_bundle, "--prompt", PROMPT, "--json", *options).out)
    with edgegpt.load(small_bundle) as model:
        expected = model.generate(PROMPT, **settings)
        plain = model.generate(PROMPT, max_new_tokens=60, temperature=1.5, seed=7)
    assert found["token_ids"] == expected.token_ids != plain.token_ids
    assert found["finish_reason"] == expected.finish_reason
    assert found["seed"] == 7
    assert found["prompt"] == PROMPT


def test_generate_by_ids_is_generate_by_text(run, small_bundle: Path) -> None:
    with edgegpt.load(small_bundle) as model:
        ids = ",".join(map(str, model.encode_prompt(PROMPT)))
    by_text = run("generate", small_bundle, "--prompt", PROMPT, "-n", 20, "-s", 3)
    by_ids = run("generate", small_bundle, "--prompt-ids", ids, "-n", 20, "-s", 3)
    assert by_text.out == by_ids.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "naïve"], "'ï' (U+00EF) at position 2"),
        (["--prompt-ids", "1,999"], "token id 999"),
        (["--prompt", "a", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt", "a", "--temperature", "nan"], "temperature is nan"),
        (["--prompt", "a", "--top-p", "0"], "--top-p is 0.0"),
        (["--prompt", "a", "--seed", "-3"], "seed -3"),
        (["--prompt", "a", "--max-new-tokens", "-1"], "--max-new-tokens is -1"),
        (["--prompt", "a", "--context", "33"], "--context is 33"),
        (["--prompt", "a", "--backend", "abacus"], "no backend 'abacus'; there are: auto, cpu"),
        (["--prompt", "a" * 33, "--overflow", "stop"], "the prompt has 33 tokens"),
        (["--prompt", "a", "--stop", ""], "a stop string is empty"),
    ],
)
def test_bad_settings_end_in_one_sentence(run, small_bundle: Path, options, words: str) -> None:
    outcome = run("generate", small_bundle, *options)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--prompt", "a", "--prompt-ids", "1"]])
def test_exactly_one_kind_of_prompt_is_needed(run, small_bundle: Path, options) -> None:
    assert run("generate", small_bundle, *options).code == 2


@pytest.mark.parametrize("command", ["verify", "generate"])
@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_what_is_no_bundle_is_named(run, tmp_path: Path, command: str, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    options = ["--prompt", "a"] if command == "generate" else []
    outcome = run(command, tmp_path / path, *options)
    assert outcome.code == 1
    assert path in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_place_that_cannot_be_written_ends_in_one_sentence(
    run, small_bundle: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "out"
    for command in (["export", small_checkpoint], ["pack", small_bundle]):
        outcome = run(*command, "--out", below)
        assert outcome.code == 1
        assert outcome.err.splitlines()[-1] == f"error: {tmp_path / 'file'}: Not a directory"
        assert outcome.err.count("error") == 1
    outcome = run("doctor", "x" * 5000)
    assert outcome.code == 1
    assert "File name too long" in outcome.err


def test_ctrl_c_that_became_another_error_is_ctrl_c(
    run, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error
        except ImportError as error:
            raise EngineError("the cpu backend needs onnxruntime") from error

    monkeypatch.setattr(edgegpt, "load", interrupted)
    outcome = run("generate", small_bundle, "--prompt", "a")
    assert (outcome.code, outcome.err.strip()) == (130, "interrupted")


def test_too_little_memory_ends_in_one_sentence(
    run, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used_up(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(edgegpt, "load", used_up)
    outcome = run("generate", small_bundle, "--prompt", "a")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith("error: the memory is used up")


def test_export_prints_the_receipt(run, small_checkpoint: Path, tmp_path: Path) -> None:
    outcome = run("export", small_checkpoint, "--out", tmp_path / "bundle")
    assert outcome.code == 0
    assert "PASS" in outcome.out
    assert str(tmp_path / "bundle") in outcome.out
    assert (
        "relative: max abs / the largest logit; it must be at most what is allowed" in outcome.out
    )
    table = outcome.out.partition("part ")[2]
    assert "weights" in table
    assert "--lowering ort" in table
    size = sum(path.stat().st_size for path in (tmp_path / "bundle").iterdir())
    assert f"in all {size / 1e6:.2f}" in " ".join(table.split())


@pytest.mark.parametrize(
    ("alias", "name"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")]
)
def test_export_knows_the_usual_names_of_precisions_and_keeps_line_ends(
    run, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias, name
) -> None:
    def see(*_: object, precision: str, settings: ExportSettings, **__: object) -> None:
        raise ExportError(f"{precision}, {settings.calibration!r}")

    monkeypatch.setattr("edgegpt.export.export_bundle", see)
    out = tmp_path / "bundle"
    outcome = run("export", small_checkpoint, "--out", out, "--precision", alias)
    assert outcome.err.endswith(f"error: {name}, None\n")
    (tmp_path / "text").write_bytes(b"To be,\r\nor\rnot\n")
    options = ["--precision", "int8", "--calibration", tmp_path / "text"]
    outcome = run("export", small_checkpoint, "--out", out, *options)
    assert outcome.err.endswith("error: int8, 'To be,\\r\\nor\\rnot\\n'\n")


def test_export_json_is_the_receipt(run, small_checkpoint: Path, tmp_path: Path) -> None:
    outcome = run("export", small_checkpoint, "--out", tmp_path / "bundle", "--json")
    assert json.loads(outcome.out)["passed"] is True
    assert json.loads(outcome.out) == json.loads((tmp_path / "bundle/receipt.json").read_text())


def test_a_checkpoint_without_text_goes_the_whole_way(
    run, small_model: GPT, tmp_path: Path
) -> None:
    from edgegpt.checkpoint import save_config, save_weights  # after torch

    (tmp_path / "ckpt").mkdir()
    import torch

    save_config(tmp_path / "ckpt", small_model.config)
    save_weights(tmp_path / "ckpt", small_model, torch.float32)
    bundle = tmp_path / "bundle"
    assert run("export", tmp_path / "ckpt", "--out", bundle).code == 0
    assert run("verify", bundle).code == 0
    outcome = run("generate", bundle, "--prompt-ids", "1,2,3", "--max-new-tokens", 5)
    assert len(json.loads(outcome.out)) == 5
    refused = run("generate", bundle, "--prompt", "The")
    assert refused.code == 1
    assert "no tokenizer" in refused.err


def test_the_command_is_lively_and_greedy_when_asked(run, small_bundle: Path) -> None:
    def text(*options: object) -> str:
        outcome = run("generate", small_bundle, "-p", PROMPT, "-n", 30, *options)
        assert outcome.code == 0, outcome.err
        return outcome.out

    with edgegpt.load(small_bundle) as model:
        lively = model.generate(PROMPT, max_new_tokens=30, temperature=0.8, seed=5).text
        greedy = model.generate(PROMPT, max_new_tokens=30).text
    assert text("-s", 5) == PROMPT + lively + "\n"
    assert text("-t", 0) == PROMPT + greedy + "\n"
    assert text("--speculate", 3) == PROMPT + greedy + "\n"  # drafts need temperature 0
    assert text("-s", 5, "--no-echo") == lively + "\n"


def test_a_seed_is_told_only_where_there_was_chance(run, small_bundle: Path) -> None:
    common = ("generate", small_bundle, "-p", PROMPT, "-n", 5)
    assert "seed 5]" in run(*common, "-s", 5).err
    assert "seed" not in run(*common, "-t", 0).err
    assert run(*common, "--quiet").err == ""


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_prompt_may_come_from_stdin_or_a_file(
    run, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    wanted = run("generate", small_bundle, "-p", PROMPT, "-s", 5).out
    (tmp_path / "prompt.txt").write_bytes(PROMPT.encode() + end)
    assert run("generate", small_bundle, "-f", tmp_path / "prompt.txt", "-s", 5).out == wanted
    stdin = io.TextIOWrapper(io.BytesIO(PROMPT.encode() + end))
    monkeypatch.setattr("sys.stdin", stdin)
    assert run("generate", small_bundle, "-p", "-", "-s", 5).out == wanted
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbf" + PROMPT.encode() + end)
    assert run("generate", small_bundle, "-f", tmp_path / "prompt.txt", "-s", 5).out == wanted
    (tmp_path / "prompt.txt").write_bytes(b"\xff")
    told = run("generate", small_bundle, "-f", tmp_path / "prompt.txt")
    assert (told.code, "prompt.txt is not UTF-8 text" in told.err) == (1, True)


def test_a_command_that_is_misspelt_is_guessed(run) -> None:
    outcome = run("genrate")
    assert outcome.code == 2
    assert "Did you mean generate?" in outcome.err
    assert "Did you mean" not in run("xyzzy").err


def test_verbose_may_come_after_the_command(run, small_bundle: Path) -> None:
    common = ("generate", small_bundle, "-p", PROMPT, "-n", 2)
    assert "opened decoder.ort" in run(*common, "-v").err
    assert "opened decoder.ort" not in run(*common).err


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setenv("_EDGEGPT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "edgegpt gen")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run().out == "plain,generate\n"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "", "-p", "a"], "BUNDLE"),
        (["inspect", ""], "BUNDLE"),
        (["doctor", ""], "[BUNDLE]"),
        (["export", "", "--out", "b"], "SRC"),
        (["import", ""], "[SRC]"),
        (["train", "--out", ""], "--out"),
        (["train", "--out", "ckpt", "--data", ""], "--data"),
        (["bench", "--compare", "", "b.json"], "--compare"),
        (["unpack", "b.tar", "--out", ""], "--out"),
        (["build", "b", "--backend", "native", "--out", ""], "--out"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(run, arguments: list[str], name: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert f"Invalid value for '{name}': The path is empty." in outcome.err


def test_every_path_of_every_command_refuses_an_empty_one() -> None:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for parameter in [parameter for one in inner for parameter in one.params]:
            types = getattr(parameter.type, "types", [parameter.type])
            assert all(
                not isinstance(one, click.Path) or isinstance(one, GivenPath) for one in types
            )
