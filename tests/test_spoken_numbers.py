"""The pairs of the demo task: what is spoken, what is written, and what is held out."""

import importlib.util
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgegpt.training.subword_tokenizer import build_subword_tokenizer

SCRIPT = Path(__file__).parents[1] / "models" / "spoken-numbers" / "make_pairs.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pairs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


task = load()
DOLLAR, POUND, EURO = task.CURRENCIES


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs the script and returns what it wrote."""

    def run(*options: str) -> str:
        task.main(["--out", str(tmp_path / "pairs.tsv"), *options])
        return (tmp_path / "pairs.tsv").read_bytes().decode()

    return run


def pairs_of(text: str) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        (0, "zero"),
        (10, "ten"),
        (19, "nineteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (305, "three hundred and five"),
        (1_000, "one thousand"),
        (1_005, "one thousand and five"),
        (1_100, "one thousand one hundred"),
        (90_017, "ninety thousand and seventeen"),
        (1_000_000, "one million"),
        (2_000_006, "two million and six"),
        (5_000_700, "five million seven hundred"),
        (10_100_000, "ten million one hundred thousand"),
        (
            999_999_999,
            "nine hundred and ninety nine million nine hundred and ninety nine thousand "
            "nine hundred and ninety nine",
        ),
    ],
)
def test_numbers_are_spoken_without_their_zeros(number: int, spoken: str) -> None:
    assert task.cardinal(number) == spoken


@pytest.mark.parametrize(
    ("number", "spoken", "written"),
    [
        (1, "first", "1st"),
        (2, "second", "2nd"),
        (3, "third", "3rd"),
        (5, "fifth", "5th"),
        (8, "eighth", "8th"),
        (9, "ninth", "9th"),
        (11, "eleventh", "11th"),
        (12, "twelfth", "12th"),
        (13, "thirteenth", "13th"),
        (20, "twentieth", "20th"),
        (21, "twenty first", "21st"),
        (111, "one hundred and eleventh", "111th"),
        (122, "one hundred and twenty second", "122nd"),
        (1_000, "one thousandth", "1000th"),
        (1_030, "one thousand and thirtieth", "1030th"),
    ],
)
def test_ordinals_have_their_own_last_words(number: int, spoken: str, written: str) -> None:
    assert (task.ordinal(number), task.written_ordinal(number)) == (spoken, written)


@pytest.mark.parametrize(
    ("day", "month", "year", "spoken", "written"),
    [
        (24, 7, 1524, "the twenty fourth of july fifteen twenty four", "1524-07-24"),
        (1, 1, 2000, "the first of january two thousand", "2000-01-01"),
        (31, 12, 1905, "the thirty first of december nineteen oh five", "1905-12-31"),
        (29, 2, 1200, "the twenty ninth of february twelve hundred", "1200-02-29"),
        (2, 5, 2009, "the second of may two thousand and nine", "2009-05-02"),
        (3, 3, 2010, "the third of march twenty ten", "2010-03-03"),
    ],
)
def test_dates_have_years_in_two_halves(
    day: int, month: int, year: int, spoken: str, written: str
) -> None:
    assert task.date(day, month, year) == (spoken, written)


@pytest.mark.parametrize(
    ("hour", "minute", "spoken", "written"),
    [
        (0, 0, "twelve a m", "00:00"),
        (0, 5, "twelve oh five a m", "00:05"),
        (9, 30, "nine thirty a m", "09:30"),
        (11, 59, "eleven fifty nine a m", "11:59"),
        (12, 0, "twelve p m", "12:00"),
        (13, 10, "one ten p m", "13:10"),
        (23, 1, "eleven oh one p m", "23:01"),
    ],
)
def test_times_are_spoken_by_the_clock_of_twelve_hours(
    hour: int, minute: int, spoken: str, written: str
) -> None:
    assert task.time(hour, minute) == (spoken, written)


@pytest.mark.parametrize(
    ("currency", "whole", "part", "spoken", "written"),
    [
        (DOLLAR, 0, 0, "zero dollars", "$0"),
        (DOLLAR, 1, 0, "one dollar", "$1"),
        (DOLLAR, 20, 5, "twenty dollars and five cents", "$20.05"),
        (POUND, 1, 1, "one pound and one penny", "£1.01"),
        (POUND, 3_000, 50, "three thousand pounds and fifty pence", "£3000.50"),
        (EURO, 2, 1, "two euros and one cent", "€2.01"),
    ],
)
def test_one_coin_is_spoken_in_the_singular(
    currency: tuple[str, ...], whole: int, part: int, spoken: str, written: str
) -> None:
    assert task.money(currency, whole, part) == (spoken, written)


def test_decimals_are_spoken_digit_by_digit() -> None:
    assert task.decimal(False, 3, "14") == ("three point one four", "3.14")
    assert task.decimal(True, 0, "0070") == ("minus zero point zero zero seven zero", "-0.0070")


def test_every_form_has_one_other_form() -> None:
    draw = random.Random(3)
    other: dict[str, str] = {}
    for kind in task.KINDS:
        for _ in range(2_000):
            spoken, written = kind(draw)
            assert other.setdefault(spoken, written) == written
            assert other.setdefault(written, spoken) == spoken


def test_numbers_of_each_length_up_to_the_longest_are_drawn_and_no_other() -> None:
    draw = random.Random(1)
    lengths = {len(str(task.draw_number(draw, 9))) for _ in range(500)}
    assert lengths == set(range(1, 10))


def test_days_are_days_of_the_calendar() -> None:
    draw = random.Random(5)
    days = {task.draw_date(draw)[1][5:] for _ in range(20_000)}
    assert len(days) == 366
    assert "02-29" in days


def test_lines_are_as_many_as_asked_with_a_source_and_a_target(make: Callable[..., str]) -> None:
    for more in ([], ["--held-out"]):
        text = make("--count", "3000", *more)
        assert text.endswith("\n")
        assert "\r" not in text
        lines = text.split("\n")[:-1]
        assert len(lines) == 3000
        assert all(re.fullmatch(r"\S[^\t]*\S?\t\S[^\t]*\S?", line) for line in lines)


def test_the_same_seed_writes_the_same_lines_and_another_seed_others(
    make: Callable[..., str],
) -> None:
    first = make("--count", "200", "--seed", "7")
    assert make("--count", "200", "--seed", "7") == first
    assert make("--count", "200", "--seed", "8") != first


def test_both_directions_are_as_frequent_and_exactly_one_side_has_digits(
    make: Callable[..., str],
) -> None:
    digits = [
        [any(character.isdigit() for character in side) for side in pair]
        for pair in pairs_of(make("--count", "4000"))
    ]
    assert all(source != target for source, target in digits)
    assert 0.45 < sum(source for source, _ in digits) / 4000 < 0.55


def test_no_item_held_out_is_in_the_pairs_for_training_in_either_direction(
    make: Callable[..., str],
) -> None:
    training = {frozenset(pair) for pair in pairs_of(make("--count", "30000"))}
    held_out = {frozenset(pair) for pair in pairs_of(make("--count", "3000", "--held-out"))}
    assert not training & held_out
    for share in (training, held_out):  # the kinds are on both sides
        written = {next(form for form in pair if re.search(r"\d", form)) for pair in share}
        for sign in ("-", ":", "%", ".", "€", "th"):
            assert any(sign in form for form in written), sign


def test_pairs_held_out_are_distinct(make: Callable[..., str]) -> None:
    pairs = pairs_of(make("--count", "3000", "--held-out"))
    assert len(set(pairs)) == 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x", "--count", "0"], "--count is 0; it must be 1"),
        (["--out", "no/folder/x", "--count", "1"], "cannot write no/folder/x: No such file"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        task.main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_tokenizer_learnt_from_the_pairs_has_whole_words_and_single_digits(
    make: Callable[..., str],
) -> None:
    texts = [text for pair in pairs_of(make("--count", "10000")) for text in pair]
    tokenizer = build_subword_tokenizer(texts, 8000)
    spoken, written = task.date(24, 7, 1524)
    words = [tokenizer.decode([number]) for number in tokenizer.encode(spoken).ids]
    assert [word.strip() for word in words] == spoken.split(" ")
    for text in (written, "-12.75", "£300.05", "09:41", "50%"):
        assert [tokenizer.decode([number]) for number in tokenizer.encode(text).ids] == list(text)
    assert tokenizer.get_vocab_size() < 400
