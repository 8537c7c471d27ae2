"""The training text: corpora, the download, the split, batches and windows."""

import hashlib
import http.client
import io
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgegpt.errors import DataError
from edgegpt.training import data
from edgegpt.training.char_tokenizer import build_char_tokenizer, encode_corpus
from edgegpt.training.data import load_corpus, random_batch, split, windows

SONNET = b"From fairest creatures we desire increase,\n"


def ids_of(count: int) -> np.ndarray:
    """Return 0, 1, 2, ..., so that each id equals its position."""
    return np.arange(count, dtype=np.int32)


def test_a_file_is_read_as_it_is(tmp_path: Path):
    raw = "Größe\r\n\tzwei — ü\n".encode()
    (tmp_path / "text.txt").write_bytes(raw)
    corpus = load_corpus(str(tmp_path / "text.txt"))
    assert corpus.text == raw.decode()
    assert corpus.name == "text.txt"
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()


def test_a_mark_of_utf_8_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbftext")
    assert load_corpus(str(tmp_path / "text.txt")).text == "text"


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "text.txt").touch()
    with pytest.raises(DataError, match=r"text\.txt is empty"):
        load_corpus(str(tmp_path / "text.txt"))


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path):
    (tmp_path / "text.txt").write_bytes("größe ".encode() + b"\xff more")
    with pytest.raises(DataError, match=r"text\.txt is not UTF-8 text: byte 8 is wrong"):
        load_corpus(str(tmp_path / "text.txt"))


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is a folder"):
        load_corpus(str(tmp_path))


def test_a_missing_file_is_refused_by_path(tmp_path: Path):
    with pytest.raises(DataError, match=f"no corpus at {tmp_path / 'none.txt'}"):
        load_corpus(str(tmp_path / "none.txt"))


def test_a_path_through_a_file_is_refused(tmp_path: Path):
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(DataError, match="cannot read the corpus"):
        load_corpus(str(tmp_path / "text.txt" / "more.txt"))


def test_without_a_name_the_text_is_cpythons_own_prose():
    from pydoc_data.topics import topics

    corpus = load_corpus(None)
    assert corpus.name == "pydoc_data.topics"
    assert all(text in corpus.text for text in topics.values())
    assert len(corpus.text) > 100_000
    assert corpus == load_corpus(None)


class Web:
    """Stands in for urlopen: gives `answer`, or raises it, and counts the calls."""

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return io.BytesIO(self.answer)


class BrokenOff(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise http.client.IncompleteRead(b"From", 1000)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Web:
    """A network that sends SONNET, whose hash is expected, and an empty cache."""
    web = Web(SONNET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", web)
    monkeypatch.setattr(data, "TINYSHAKESPEARE_SHA256", hashlib.sha256(SONNET).hexdigest())
    return web


def test_tinyshakespeare_is_downloaded_once_and_then_cached(web: Web, tmp_path: Path):
    first = load_corpus("tinyshakespeare")
    assert (first.name, first.text) == ("tinyshakespeare", SONNET.decode())
    assert len(web.asked) == 1
    web.answer = urllib.error.URLError("the network is gone")
    assert load_corpus("tinyshakespeare") == first
    assert len(web.asked) == 1
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in cached] == [SONNET]


def test_a_damaged_cache_is_downloaded_anew(web: Web, tmp_path: Path):
    load_corpus("tinyshakespeare")
    (cached,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    cached.write_bytes(SONNET[:-3])
    assert load_corpus("tinyshakespeare").text == SONNET.decode()
    assert len(web.asked) == 2
    assert cached.read_bytes() == SONNET


def test_a_download_with_another_hash_is_refused_and_not_kept(web: Web, tmp_path: Path):
    web.answer = b"<html>Please log in to this network</html>"
    found = hashlib.sha256(web.answer).hexdigest()
    with pytest.raises(DataError, match=rf"not tinyshakespeare: its sha256 is {found}"):
        load_corpus("tinyshakespeare")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_real_hash_is_the_one_of_the_published_file():
    assert data.TINYSHAKESPEARE_SHA256 == (
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    )


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("http://x", 404, "Not Found", None, None),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.RemoteDisconnected("gone"),
        http.client.BadStatusLine("garbage"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failing_network_is_one_clear_error(web: Web, failure: Exception):
    web.answer = failure
    with pytest.raises(DataError, match=r"cannot download tinyshakespeare.*--data FILE"):
        load_corpus("tinyshakespeare")


def test_a_download_that_breaks_off_is_one_clear_error(web: Web, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: BrokenOff())
    with pytest.raises(DataError, match="cannot download tinyshakespeare"):
        load_corpus("tinyshakespeare")


def test_a_cache_that_cannot_be_written_does_not_keep_the_text_from_us(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_corpus("tinyshakespeare").text == SONNET.decode()


def test_a_file_named_tinyshakespeare_is_taken_instead_of_the_download(web: Web, tmp_path: Path):
    (tmp_path / "tinyshakespeare").write_text("mine")
    assert load_corpus("tinyshakespeare").text == "mine"
    assert not web.asked


def test_the_first_nine_tenths_are_for_training():
    train, validation = split(ids_of(1009), 16)
    assert train.tolist() == list(range(908))
    assert validation.tolist() == list(range(908, 1009))


def test_a_text_whose_validation_part_holds_no_block_is_refused():
    train, validation = split(ids_of(170), 16)
    assert (len(train), len(validation)) == (153, 17)
    with pytest.raises(DataError, match=r"has 16 tokens, and a block of 16 needs 17"):
        split(ids_of(160), 16)


def test_a_batch_depends_on_seed_and_step_and_nothing_else():
    def batch(seed: int, step: int) -> torch.Tensor:
        return random_batch(ids_of(1000), 8, 4, seed, step)[0]

    first = batch(7, 3)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(batch(7, 3), first)
    others = [batch(7, 4), batch(8, 3), batch(3, 7)]
    assert not any(torch.equal(other, first) for other in others)


@given(
    length=st.integers(2, 60),
    block=st.integers(1, 59),
    seed=st.integers(0, 2**62),
    step=st.integers(1, 10**6),
)
def test_a_batchs_targets_are_its_inputs_shifted_by_one(
    length: int, block: int, seed: int, step: int
):
    block = min(block, length - 1)
    inputs, targets = random_batch(ids_of(length), block, 5, seed, step)
    assert inputs.shape == targets.shape == (5, block)
    assert inputs.dtype == targets.dtype == torch.int64
    expected = inputs[:, :1] + torch.arange(block)
    assert torch.equal(inputs, expected)  # ids are positions: each row is consecutive
    assert torch.equal(targets, expected + 1)
    assert int(inputs.min()) >= 0
    assert int(targets.max()) < length


def test_batches_reach_the_first_and_the_last_position():
    inputs, targets = random_batch(ids_of(12), 8, 200, 0, 1)
    assert set(inputs[:, 0].tolist()) == {0, 1, 2, 3}
    assert int(targets.max()) == 11


def test_windows_cover_all_full_blocks_without_overlap():
    parts = list(windows(ids_of(35), 8, 3, 100))
    assert [tuple(inputs.shape) for inputs, _ in parts] == [(3, 8), (1, 8)]
    inputs = torch.cat([part for part, _ in parts])
    targets = torch.cat([part for _, part in parts])
    assert inputs.flatten().tolist() == list(range(32))
    assert targets.flatten().tolist() == list(range(1, 33))


def test_a_limit_takes_windows_from_the_beginning_to_the_end():
    starts = [int(inputs[0, 0]) for inputs, _ in windows(ids_of(1001), 10, 1, 5)]
    assert starts == [0, 250, 500, 740, 990]  # windows 0, 24.75, 49.5, 74.25 and 99, rounded


@given(
    length=st.integers(2, 400),
    block=st.integers(1, 20),
    rows=st.integers(1, 7),
    limit=st.integers(1, 60),
)
def test_windows_take_every_position_at_most_once_and_add_up(
    length: int, block: int, rows: int, limit: int
):
    block = min(block, length - 1)
    parts = list(windows(ids_of(length), block, rows, limit))
    assert all(inputs.shape == targets.shape for inputs, targets in parts)
    assert all(len(inputs) == rows for inputs, _ in parts[:-1])
    assert 1 <= len(parts[-1][0]) <= rows
    inputs = torch.cat([part for part, _ in parts])
    targets = torch.cat([part for _, part in parts])
    count = (length - 1) // block
    assert inputs.shape == (min(count, limit), block)
    assert torch.equal(targets, inputs + 1)
    assert len(set(targets.flatten().tolist())) == targets.numel()
    assert int(targets.max()) < length
    gaps = inputs[:, 0].diff() // block
    assert len(gaps) == 0 or int(gaps.max() - gaps.min()) <= 1  # evenly spread


def test_a_long_text_takes_few_bytes_of_memory_for_each_of_its_own(tmp_path: Path) -> None:
    text = "First Citizen: before we proceed any further, hear me speak.\n" * 200_000
    (tmp_path / "long.txt").write_text(text)
    tracemalloc.start()
    corpus = load_corpus(str(tmp_path / "long.txt"))
    ids = encode_corpus(build_char_tokenizer(corpus.text), corpus.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(ids) == len(text)
    assert peak < 6 * len(text)
