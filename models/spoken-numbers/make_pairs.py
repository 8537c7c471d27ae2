"""Write pairs of the demo task: numbers, dates, times and money, spoken and written.

A line is a source, a tab and a target. Half of the lines go from spoken to written form, half go
back; whether the source has digits tells which:

    the twenty fourth of july fifteen twenty four <-> 1524-07-24

A spoken form has one written form, and the other way round, so that every answer is either right or
wrong. One item in twenty is held out, chosen by a hash of its written form: neither of its two
directions is ever a pair for training.

    python make_pairs.py --out train.tsv --count 300000
    python make_pairs.py --out held_out.tsv --count 10000 --held-out

The same options always write the same file.
"""

import argparse
import calendar
import random
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
)  # fmt: skip
TENS = (
    "", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
SCALES = ((1_000_000, "million"), (1_000, "thousand"))
MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
# The sign, one and several of the currency, one and several of its hundredth part.
CURRENCIES = (
    ("$", "dollar", "dollars", "cent", "cents"),
    ("£", "pound", "pounds", "penny", "pence"),
    ("€", "euro", "euros", "cent", "cents"),
)
HELD_OUT_OF = 20  # one item in so many is held out
ROUND_SHARE = 0.25  # of the numbers end with zeros


def below_hundred(number: int) -> str:
    """Speak 0 to 99: "forty two"."""
    if number < len(SMALL):
        return SMALL[number]
    tens, ones = divmod(number, 10)
    return f"{TENS[tens]} {SMALL[ones]}" if ones else TENS[tens]


def below_thousand(number: int) -> str:
    """Speak 0 to 999: "three hundred and five"."""
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return below_hundred(rest)
    spoken = f"{SMALL[hundreds]} hundred"
    return f"{spoken} and {below_hundred(rest)}" if rest else spoken


def cardinal(number: int) -> str:
    """Speak 0 to 999,999,999: "two million and six"."""
    parts = []
    for size, name in SCALES:
        count, number = divmod(number, size)
        if count:
            parts.append(f"{below_thousand(count)} {name}")
    if parts and 0 < number < 100:
        parts.append(f"and {below_hundred(number)}")
    elif number or not parts:
        parts.append(below_thousand(number))
    return " ".join(parts)


def ordinal(number: int) -> str:
    """Speak a place: "twenty first", "one hundred and thirtieth"."""
    *before, last = cardinal(number).split(" ")
    stem = last[:-1] + "ie" if last.endswith("y") else last
    return " ".join([*before, ORDINALS.get(last, f"{stem}th")])


def written_ordinal(number: int) -> str:
    """Write a place: 21st, 112th."""
    teens = 11 <= number % 100 <= 13
    return str(number) + ("th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th"))


def year(number: int) -> str:
    """Speak 1100 to 2099: "fifteen twenty four", "nineteen oh five", "two thousand and one"."""
    if number % 1000 < 10:
        return cardinal(number)
    century, rest = divmod(number, 100)
    if rest == 0:
        return f"{below_hundred(century)} hundred"
    return f"{below_hundred(century)} {'oh ' if rest < 10 else ''}{below_hundred(rest)}"


def date(day: int, month: int, number_of_year: int) -> tuple[str, str]:
    """Return a date, spoken and written."""
    spoken = f"the {ordinal(day)} of {MONTHS[month - 1]} {year(number_of_year)}"
    return spoken, f"{number_of_year}-{month:02d}-{day:02d}"


def time(hour: int, minute: int) -> tuple[str, str]:
    """Return a time of day, spoken by the clock of 12 hours and written by that of 24."""
    parts = [SMALL[(hour - 1) % 12 + 1]]
    if minute:
        parts.append(f"oh {SMALL[minute]}" if minute < 10 else below_hundred(minute))
    parts.append("a m" if hour < 12 else "p m")
    return " ".join(parts), f"{hour:02d}:{minute:02d}"


def money(currency: tuple[str, str, str, str, str], whole: int, hundredths: int) -> tuple[str, str]:
    """Return an amount of a currency, spoken and written."""
    sign, one, several, one_part, several_parts = currency
    spoken, written = f"{cardinal(whole)} {one if whole == 1 else several}", f"{sign}{whole}"
    if hundredths:
        part = one_part if hundredths == 1 else several_parts
        spoken += f" and {below_hundred(hundredths)} {part}"
        written += f".{hundredths:02d}"
    return spoken, written


def decimal(negative: bool, whole: int, digits: str) -> tuple[str, str]:
    """Return a decimal fraction, spoken and written."""
    spoken = f"{cardinal(whole)} point {' '.join(SMALL[int(digit)] for digit in digits)}"
    written = f"{whole}.{digits}"
    return (f"minus {spoken}", f"-{written}") if negative else (spoken, written)


def draw_number(draw: random.Random, digits: int) -> int:
    """Draw a number of 1 to `digits` digits, each length as often; some are round."""
    length = draw.randint(1, digits)
    number = draw.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)
    if draw.random() < ROUND_SHARE:
        zeros = 10 ** draw.randrange(length)
        number = number // zeros * zeros
    return number


def draw_cardinal(draw: random.Random) -> tuple[str, str]:
    """Draw a number to 999,999,999."""
    number = draw_number(draw, 9)
    return cardinal(number), str(number)


def draw_ordinal(draw: random.Random) -> tuple[str, str]:
    """Draw a place to the 9,999th."""
    number = max(1, draw_number(draw, 4))
    return ordinal(number), written_ordinal(number)


def draw_date(draw: random.Random) -> tuple[str, str]:
    """Draw a day of the years 1100 to 2099."""
    number_of_year, month = draw.randint(1100, 2099), draw.randint(1, 12)
    last = calendar.monthrange(number_of_year, month)[1]
    return date(draw.randint(1, last), month, number_of_year)


def draw_time(draw: random.Random) -> tuple[str, str]:
    """Draw a minute of the day; one in six is a full hour."""
    minute = 0 if draw.random() < 1 / 6 else draw.randrange(60)
    return time(draw.randrange(24), minute)


def draw_money(draw: random.Random) -> tuple[str, str]:
    """Draw an amount below a million; one in four has no cents."""
    hundredths = 0 if draw.random() < 1 / 4 else draw.randrange(100)
    return money(draw.choice(CURRENCIES), draw_number(draw, 6), hundredths)


def draw_decimal(draw: random.Random) -> tuple[str, str]:
    """Draw a fraction of up to four decimals; three in ten are negative."""
    digits = "".join(draw.choices("0123456789", k=draw.randint(1, 4)))
    return decimal(draw.random() < 0.3, draw_number(draw, 5), digits)


def draw_percent(draw: random.Random) -> tuple[str, str]:
    """Draw a percentage to 999."""
    number = draw_number(draw, 3)
    return f"{cardinal(number)} percent", f"{number}%"


# How many of a hundred items are of a kind.
KINDS: dict[Callable[[random.Random], tuple[str, str]], int] = {
    draw_cardinal: 40,
    draw_date: 14,
    draw_money: 12,
    draw_time: 10,
    draw_decimal: 10,
    draw_ordinal: 8,
    draw_percent: 6,
}


def is_held_out(written: str) -> bool:
    """Return whether an item is kept from training."""
    return zlib.crc32(written.encode()) % HELD_OUT_OF == 0


def pairs(seed: int, held_out: bool) -> Iterator[tuple[str, str]]:
    """Yield pairs of source and target without end, for training, or of the items held out.

    Those for training repeat themselves, since short numbers are few; the others do not.
    """
    draw = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    seen = set()
    while True:
        spoken, written = draw.choices(kinds, weights)[0](draw)
        pair = (spoken, written) if draw.random() < 0.5 else (written, spoken)
        if is_held_out(written) != held_out or pair in seen:
            continue
        if held_out:
            seen.add(pair)
        yield pair


def main(arguments: list[str] | None = None) -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description="Write pairs of spoken and written numbers.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--count", type=int, default=300_000, help="lines (default: 300000)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--held-out", action="store_true", help="write items kept from training")
    options = parser.parse_args(arguments)
    if not 1 <= options.count <= 10_000_000:
        parser.error(f"--count is {options.count}; it must be 1 to 10000000")
    chosen = islice(pairs(options.seed, options.held_out), options.count)
    text = "".join(f"{source}\t{target}\n" for source, target in chosen)
    try:
        options.out.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error.strerror}")


if __name__ == "__main__":
    main()
