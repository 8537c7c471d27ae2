"""Errors of the command line name settings by the options that set them."""

import shutil

import click
import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.option_names import in_options

PARAMETERS = [
    click.Option(["--n-best", "num_return_sequences"]),
    click.Option(["--num-beams", "--beams"]),
    click.Option(["-n", "--max-new-tokens"]),
    click.Option(["--overflow"]),
    click.Option(["--stop"]),
    click.Option(["--beta1"]),
    click.Argument(["bundle"]),
]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("num_return_sequences is 3; at most num_beams", "--n-best is 3; at most --num-beams"),
        ("leave it out, or give num_beams=1", "leave it out, or give --num-beams 1"),
        ('shorten it, or overflow="slide"', "shorten it, or --overflow slide"),
        ('overflow="slide" does not go', "--overflow slide does not go"),
        ("stop is 3; it must be a text", "--stop is 3; it must be a text"),
        ("a stop string may stop it", "a stop string may stop it"),
        ("stop above 3 does not go", "--stop above 3 does not go"),
        ("stop strings need a tokenizer", "stop strings need a tokenizer"),
        ("stop holds a bundle already", "stop holds a bundle already"),
        ("beta1 and bad_words must be below 1", "--beta1 and bad_words must be below 1"),
        ("bundle is a folder", "bundle is a folder"),
        ("cannot read /num_beams/num_beams", "cannot read /num_beams/num_beams"),
        ("cannot read num_beams.json", "cannot read num_beams.json"),
        ('invalid regex "stop=1("', 'invalid regex "stop=1("'),
        ("there is no language 'num_beams'", "there is no language 'num_beams'"),
        ("line 3: num_beams is 0", "line 3: --num-beams is 0"),
        ("--max-new-tokens is -1", "--max-new-tokens is -1"),
    ],
)
def test_settings_are_said_as_options(message: str, said: str) -> None:
    assert in_options(message, PARAMETERS) == said


def test_a_command_without_options_says_what_the_library_says() -> None:
    assert in_options("num_beams is 0", [click.Argument(["bundle"])]) == "num_beams is 0"


def _told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-n", "-1"], "--max-new-tokens is -1"),
        (["-t", "nan"], "--temperature is nan"),
        (["--top-k", "-1"], "--top-k is -1"),
        (["--top-p", "0"], "--top-p is 0.0"),
        (["--min-p", "2"], "--min-p is 2.0"),
        (["--repetition-penalty", "0"], "--repetition-penalty is 0.0"),
        (["--speculate", "99"], "--speculate is 99"),
        (["--n-best", "3"], "--n-best is 3; it must be a whole number from 1 to --num-beams"),
        (["--beams", "2", "-t", "1"], "leave it out, or give --num-beams 1"),
        (["--beams", "2", "--regex", "a"], "--regex does not go with a search"),
        (["--no-repeat-ngram-size", "-1"], "--no-repeat-ngram-size is -1"),
        (["--forced-bos", "-1"], "--forced-bos is -1"),
        (["--source-language", "de"], "--source-language is for models with an encoder"),
        (["--context", "0"], "--context is 0"),
        (["--regex", "["], "--regex cannot be followed"),
        (["--overflow", "stop", "--context", "2"], "with its last part: --overflow slide"),
        (["--cache", "float16", "--backend", "cpu"], "--cache float16 is for the backend native"),
    ],
)
def test_generate_names_the_options_that_were_typed(
    capsys: pytest.CaptureFixture[str], small_bundle, options: list[str], said: str
) -> None:
    told = _told(capsys, "generate", small_bundle, "-p", "The wind", *options)
    assert told.startswith("error: ")
    assert said in told


def test_words_that_are_also_options_stay_words(
    capsys: pytest.CaptureFixture[str], small_bundle, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("out", "chat"):
        shutil.copytree(small_bundle, place)
    assert _told(capsys, "export", "no-model", "--out", "out").startswith("error: out holds a")
    source = ("--source", "The wind")
    assert _told(capsys, "generate", "chat", *source).startswith("error: chat has no encoder")


def test_a_lack_of_memory_is_no_option(
    capsys: pytest.CaptureFixture[str], small_bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise edgegpt.EngineError("out of memory on CUDA: choose a smaller context or batch")

    monkeypatch.setattr("edgegpt.runtime.bench.measure", full)
    assert _told(capsys, "bench", small_bundle).startswith("error: out of memory on CUDA")


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("inspect", ["--batch", "0"], "--batch is 0; it must be at least 1"),
        ("inspect", ["--context", "0"], "--context is 0"),
        ("bench", ["--top-p", "2"], "--top-p is 2.0"),
    ],
)
def test_other_commands_name_their_options(
    capsys: pytest.CaptureFixture[str], small_bundle, command: str, options: list[str], said: str
) -> None:
    assert said in _told(capsys, command, small_bundle, *options)


def test_train_names_its_options(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    call = ["train", "--preset", "tiny", "--out", tmp_path / "ckpt"]
    assert "--n-embd (128) is not a multiple of --n-head (5)" in _told(
        capsys, *call, "--n-head", "5"
    )
    assert "--beta1 and --beta2 must be below 1" in _told(capsys, *call, "--beta1", "2")


def test_a_program_reads_the_names_of_python(small_bundle) -> None:

    with edgegpt.load(small_bundle) as model, pytest.raises(edgegpt.InvalidInputError) as caught:
        model.generate("The wind" * 9, overflow="stop")
    assert str(caught.value).endswith('shorten it, or go on with its last part: overflow="slide"')
