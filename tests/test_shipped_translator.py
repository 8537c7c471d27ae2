"""The encoder-decoder of this repository, on the command line: translate, generate, eval."""

import io
import json
import sys
from pathlib import Path

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.export import export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.memory import memory_needed

FOLDER = Path(__file__).parents[1] / "models" / "spoken-numbers"
PAIRS = {
    "the twenty fourth of july fifteen twenty four": "1524-07-24",
    "1524-07-24": "the twenty fourth of july fifteen twenty four",
    "$12.50": "twelve dollars and fifty cents",
    "three hundred thousand": "300000",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("translator") / "bundle"
    assert export_bundle(FOLDER, out).passed
    return out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return invoke


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Give the process a stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_it_is_small_and_has_the_preset_s_shape() -> None:
    size = sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file())
    assert size < 2_500_000


def test_it_translates_both_ways(bundle: Path) -> None:
    with edgegpt.load(bundle) as lm:
        assert [one.text for one in lm.generate(list(PAIRS))] == list(PAIRS.values())
        found = lm.generate(list(PAIRS), num_beams=4)
        assert [one.text for one in found] == list(PAIRS.values())


def test_it_translates_nearly_all_held_out_pairs_exactly(run, bundle: Path, tmp_path) -> None:
    lines = (FOLDER / "held_out.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "pairs.tsv").write_text("".join(lines[300:800]))
    code, out, _ = run("eval", bundle, "--data", tmp_path / "pairs.tsv", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["pairs"] == 500
    assert result["exact_match"] >= 99.5
    assert result["bleu"] > 99
    assert 0 < result["loss"] < 0.05


def test_translate_gives_a_line_for_each_line(run, bundle: Path, monkeypatch) -> None:
    sources = list(PAIRS)
    typed(monkeypatch, f"\ufeff{sources[0]}\r\n\n{sources[1]}\n  \n{sources[2]}".encode())
    code, out, _ = run("translate", bundle)
    targets = list(PAIRS.values())
    assert code == 0
    assert out.split("\n") == [targets[0], "", targets[1], "", targets[2], ""]


def test_translate_reads_a_file_and_writes_another(run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{source}\n" for source in PAIRS))
    code, out, _ = run("translate", bundle, tmp_path / "in.txt", "--out", tmp_path / "out.txt")
    assert (code, out) == (0, "")
    assert (tmp_path / "out.txt").read_text().splitlines() == list(PAIRS.values())


def test_translate_tells_scores_as_json(run, bundle: Path, monkeypatch) -> None:
    typed(monkeypatch, b"$12.50\n\n")
    code, out, _ = run("translate", bundle, "--beams", 3, "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert (first["source"], first["text"]) == ("$12.50", PAIRS["$12.50"])
    assert first["score"] < 0
    assert second == {"source": "", "text": ""}


def test_generate_writes_what_it_makes_of_a_source(run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "source.txt").write_text("$12.50\n")
    for given in (("--source", "$12.50"), ("--source-file", tmp_path / "source.txt")):
        assert run("generate", bundle, *given)[1] == PAIRS["$12.50"] + "\n"
    code, out, _ = run("generate", bundle, "--source", "$12.50", "--beams", 4, "--n-best", 2)
    assert code == 0
    scores, texts = zip(*(line.split(" ", 1) for line in out.splitlines()), strict=True)
    assert texts[0] == PAIRS["$12.50"]
    assert float(scores[0]) > float(scores[1])


def test_bench_inspect_and_doctor_know_it(
    run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = ("--tokens", 4, "--depths", 4, "--batches", "1,2", "--repeats", 1)
    code, out, _ = run("bench", bundle, *numbers, "--json")
    assert code == 0
    assert len(json.loads(out)["cells"]) == 2
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run("inspect", bundle)
    assert code == 0
    assert "source_k.0 ... source_v.1 (4)" in out
    assert "end with 2, no codes of languages" in out
    # keys and values of 2 layers, 128 wide, of a token and of a source of 256
    code, out, _ = run("doctor", bundle)
    assert code == 0
    assert "cache 2.0 kB a token, the longest source 0.5 MB" in out
    assert "one row of 256 tokens with its source" in out


def test_the_memory_is_that_of_the_longest_source_too(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    one, two = memory_needed(opened, 1, 1), memory_needed(opened, 2, 1)
    assert one.cache == 2 * 2 * 128 * 4
    assert one.sources == 256 * one.cache
    assert two.sources == 2 * one.sources
    assert one.workspace == 3 * 256 * 512 * 4  # of the widened source, in the encoder
    assert one.total == one.weights + one.cache + one.workspace + one.sources


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["generate", "--prompt", "x"], 1, "has an encoder: it makes a text from a --source"),
        (["generate", "--source", " "], 1, "the source is empty"),
        (["generate", "--source", "Ω"], 1, "the character 'Ω' (U+03A9) at position 0"),
        (["generate", "--source", "nine " * 300], 1, "and the model reads 256 at most"),
        (["generate", "--source-file", "missing.txt"], 1, "cannot read missing.txt"),
        (["generate", "--source-ids", "1,x"], 2, "--source-ids takes numbers as 1,2,3"),
        (["generate", "--source", "1", "--prompt", "x"], 2, "give one of --prompt"),
        (
            ["generate", "--source", "1", "--target-language", "fr"],
            1,
            "--target-language is for models with codes of languages",
        ),
        (
            ["translate", "some.txt", "--source-language", "fr"],
            1,
            "--source-language is for models with codes of languages",
        ),
        (["generate", "--source", "1", "--beams", "400"], 1, "has only 311 first tokens"),
        (
            ["generate", "--source", "1", "--beams", "2", "--n-best", "3"],
            1,
            "from 1 to --num-beams",
        ),
        (["generate", "--source", "1", "--beams", "0"], 2, "0 is not in the range 1<=x<=1024"),
        (["generate", "--source", "1", "--chat"], 2, "--chat needs a --prompt"),
        (["generate", "--source", "1", "--speculate", "2"], 1, "for models without an encoder"),
        (["translate", "missing.txt"], 1, "cannot read missing.txt"),
        (["translate", "--out", "missing/out.txt"], 1, "cannot write missing/out.txt: there is no"),
        (["eval", "--data", "missing.tsv"], 1, "no file of pairs at missing.tsv"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    run, bundle: Path, monkeypatch, tmp_path, arguments: list[str], code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.txt").write_text("nine\n")
    found, out, err = run(arguments[0], bundle, *arguments[1:])
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_a_line_that_cannot_be_read_is_named(run, bundle: Path, monkeypatch, tmp_path) -> None:
    typed(monkeypatch, "$12.50\nΩ\n".encode())
    code, out, err = run("translate", bundle, "--out", tmp_path / "out.txt")
    assert (code, out) == (1, "")
    assert "line 2: the character 'Ω'" in err
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("9" * 600, "line 4: the source has 601 tokens, and the model reads"),
        ("Ω", "line 4: the character 'Ω'"),
        ("\udcff", "stdin line 4 is not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 3, 512])
def test_the_lines_before_one_that_cannot_be_read_are_written_in_order(
    run, bundle: Path, monkeypatch, bad: str, told: str, at_once: int
) -> None:
    monkeypatch.setattr("edgegpt.commands.translate.AT_ONCE", at_once)
    lines = ["the twenty fourth of july fifteen twenty four", "", "$12.50", bad, "nine"]
    typed(monkeypatch, "\n".join(lines).encode(errors="surrogateescape"))
    code, out, err = run("translate", bundle)
    assert (code, out) == (1, f"1524-07-24\n\n{PAIRS['$12.50']}\n")
    assert told in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("one column\n", "line 1 has no tab"),
        ("a\tb\n\nc\td\n", "line 2 is empty"),
        ("a\tb\tc\n", "line 1 has 3 columns"),
        ("a\t \n", "line 1 has an empty target"),
        ("", "has no pairs"),
    ],
)
def test_a_file_that_is_no_pairs_is_refused_by_its_line(
    run, bundle: Path, tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "pairs.tsv").write_text(content)
    code, _, err = run("eval", bundle, "--data", tmp_path / "pairs.tsv")
    assert code == 1
    assert told in err


def test_models_without_an_encoder_do_not_translate(run, small_bundle: Path, monkeypatch) -> None:
    typed(monkeypatch, b"The\n")
    assert "has no encoder, so it does not translate" in run("translate", small_bundle)[2]
    code, _, err = run("generate", small_bundle, "--source", "The")
    assert code == 1
    assert "has no encoder, so it takes no source; give --prompt" in err
