"""Files of pairs: what is read, what is refused, and which pairs are kept for validation."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegpt.errors import DataError
from edgegpt.runtime.text.pairs import Pair, PairFile, load_pairs
from edgegpt.training import pairs
from edgegpt.training.pairs import split_pairs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.tsv"


def file_of(numbers: list[int]) -> PairFile:
    return PairFile("pairs.tsv", [(f"source {n}", f"target {n}") for n in numbers], "")


def test_a_line_is_a_source_and_a_target_as_they_are(path: Path):
    raw = "Größe\t size \nzwei — ü\ta\u2028b\x0bc\n".encode()
    path.write_bytes(raw)
    file = load_pairs(path)
    assert file.pairs == [("Größe", " size "), ("zwei — ü", "a\u2028b\x0bc")]
    assert file.name == "pairs.tsv"
    assert file.sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    "text", ["a\tb\nc\td\n", "a\tb\nc\td", "a\tb\r\nc\td\r\n", "\ufeffa\tb\nc\td"]
)
def test_line_ends_and_the_mark_of_utf8_are_no_part_of_a_text(path: Path, text: str):
    path.write_bytes(text.encode())
    assert load_pairs(path).pairs == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"pairs\.tsv has no pairs; each line must be a source, a tab and a target$"),
        (b"\n", r"pairs\.tsv has no pairs"),
        (b"a\tb\nab\n", r"pairs\.tsv line 2 has no tab; each line must be"),
        (b"a\tb\tc\n", r"pairs\.tsv line 1 has 3 columns; each line must be"),
        (b"a\tb\n\nc\td\n", r"pairs\.tsv line 2 is empty; each line must be"),
        (b"a\tb\r\n\r\nc\td\r\n", r"pairs\.tsv line 2 is empty"),
        (b"a\tb\n\n", r"pairs\.tsv line 2 is empty"),
        (b"a\tb\n\tb\n", r"pairs\.tsv line 2 has an empty source$"),
        (b"a\tb\na\t\n", r"pairs\.tsv line 2 has an empty target$"),
        (b"a\tb\na\t \r\n", r"pairs\.tsv line 2 has an empty target$"),
        (b"a\tb\nc\td\ne\t\xff\n", r"pairs\.tsv line 3 is not UTF-8 text$"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(path: Path, raw: bytes, message: str):
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_pairs(path)


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is a folder; pairs come from one file"):
        load_pairs(tmp_path)


def test_a_missing_file_is_refused_by_path(path: Path):
    with pytest.raises(DataError, match=f"no file of pairs at {path}"):
        load_pairs(path)


@pytest.mark.parametrize("name", ["more.tsv", "x" * 1000])
def test_a_path_that_cannot_be_opened_is_refused(path: Path, name: str):
    path.write_text("a\tb\n")
    with pytest.raises(DataError, match="cannot read the pairs"):
        load_pairs(path / name)


def test_a_tenth_is_for_validation_and_the_rest_for_training():
    file = file_of(list(range(1000)))
    train, validation = split_pairs(file)
    assert (len(train), len(validation)) == (900, 100)
    assert sorted(train + validation) == sorted(file.pairs)
    assert train == [pair for pair in file.pairs if pair in set(train)]  # in the file's order
    numbers = sorted(int(source.split()[1]) for source, _ in validation)
    assert numbers[0] < 100  # from everywhere
    assert numbers[-1] > 900


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_the_split_depends_on_the_pairs_and_not_on_order_or_repetition(
    numbers: list[int], shuffler: random.Random
):
    numbers += [100, 101]
    train, validation = split_pairs(file_of(numbers))
    assert not set(train) & set(validation)
    assert len(set(validation)) == len(validation) >= 1
    assert len(train) >= 1
    assert set(train + validation) == set(file_of(numbers).pairs)
    again = numbers + numbers
    shuffler.shuffle(again)
    assert {*split_pairs(file_of(again))[1]} == {*validation}
    assert len(split_pairs(file_of(again))[0]) == 2 * len(train)


def test_a_pair_is_its_source_and_its_target():
    same: list[Pair] = [("a", str(number)) for number in range(100)]
    train, validation = split_pairs(PairFile("x", same, ""))
    assert (len(train), len(validation)) == (90, 10)


def test_large_files_keep_no_more_than_the_most(monkeypatch: pytest.MonkeyPatch):
    assert pairs.MOST_VALIDATION_PAIRS == 10_000
    monkeypatch.setattr(pairs, "MOST_VALIDATION_PAIRS", 30)
    train, validation = split_pairs(file_of(list(range(1000))))
    assert (len(train), len(validation)) == (970, 30)


@pytest.mark.parametrize("numbers", [[1], [1, 1, 1]])
def test_one_pair_cannot_be_split(numbers: list[int]):
    with pytest.raises(DataError, match=r"pairs\.tsv has one pair only.*for validation"):
        split_pairs(file_of(numbers))
