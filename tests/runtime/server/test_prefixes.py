"""Prefixes on disk: a text that begins with one is what it is without, and bad files do no harm."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_engine import host_engine
from http_servers import serving
from safetensors.numpy import load_file, save_file

import edgegpt
from edgegpt import LanguageModel
from edgegpt.cli import main
from edgegpt.commands.serve import _keys, _prefixes
from edgegpt.errors import DataError, EdgeGPTWarning, EngineError, InvalidInputError
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.generation import prefix_store, shared_rows
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.prefix_store import Prefix, PrefixStore
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.scheduler import Scheduler
from edgegpt.runtime.generation.tickets import Ticket
from edgegpt.runtime.server.prefixes import keep, prefix_ids

PREFIX, OTHER, SOON = "the wind and the rain", "a tree or two and a", 120
TEMPLATE = "{% for m in messages %}{{ m.role[0] }} {{ m.content }}\n{% endfor %}"


@pytest.fixture
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


def opened(model: LanguageModel, folder: Path) -> PrefixStore:
    return PrefixStore(folder, model.bundle.manifest.id, model.engine)


@contextmanager
def scheduling(model: LanguageModel, store: PrefixStore | None, rows: int = 2) -> Iterator[Any]:
    """Yield a function that has a prompt written, and returns its ended ticket."""
    scheduler = Scheduler(model.engine, model.tokenizer, model.context, rows=rows, store=store)

    def write(prompt: str) -> Ticket:
        sampling = Sampling(0.9, top_k=20)
        own = Rules(model.context, 8, sampling, "stop", 0.0, logprobs=3)
        ticket = scheduler.submit(Text(model.encode_prompt(prompt), seed=3, series=5), own)
        ticket.wait(SOON)
        return ticket

    yield write
    scheduler.close()


def written(ticket: Ticket) -> list[Any]:
    """Return tokens, and log-probabilities to the last bit."""
    result = ticket.result
    assert len(result.token_ids) == 8
    assert result.logprobs is not None
    return [result.token_ids, result.logprobs]


@pytest.mark.parametrize("piece", [6, 128])
def test_after_a_restart_a_text_has_the_bits_that_it_has_when_all_of_it_is_fed(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(shared_rows, "PIECE", piece)
    monkeypatch.setattr(shared_rows, "SHORT_REST", 2)
    first = keep(model, opened(model, tmp_path), PREFIX)
    store = opened(model, tmp_path)
    again = keep(model, store, PREFIX)
    assert (first.fed, again.fed) == (True, False)
    assert first.tokens == again.tokens == len(PREFIX)
    with scheduling(model, store) as warm, scheduling(model, None) as cold:
        for prompt in (PREFIX + " it", PREFIX + "s a", PREFIX):
            expected, found = cold(prompt), warm(prompt)
            assert written(found) == written(expected)
    with scheduling(model, opened(model, tmp_path)) as warm:
        assert warm(PREFIX + " it").reused == len(PREFIX)


def test_a_row_gets_exactly_the_slots_that_were_read(model: LanguageModel, tmp_path: Path) -> None:
    keep(model, opened(model, tmp_path), PREFIX)
    (prefix,) = (store := opened(model, tmp_path)).prefixes
    past = store.read(prefix)
    assert past is not None
    ids = np.array([model.encode_prompt(PREFIX)])
    fed, filled = model.engine.new_state(1, 32), model.engine.new_state(2, 32)
    fed.step(ids, np.array([0]), np.array([[0]]))
    filled.fill(past, 1)
    for one, other in zip(fed.past(ids.size), filled.past(ids.size, 1), strict=True):
        assert one.any()
        np.testing.assert_array_equal(one, other)


def test_a_prefix_that_other_texts_displaced_is_read_again(
    model: LanguageModel, tmp_path: Path
) -> None:
    keep(model, store := opened(model, tmp_path), PREFIX)
    with scheduling(model, store, rows=1) as write:
        assert write(PREFIX + " it").reused == len(PREFIX)
        assert write(OTHER).reused == 0
        assert write(PREFIX + "s").reused == len(PREFIX) - 1  # two tokens are left to feed


def test_a_small_part_of_a_prefix_is_not_worth_reading(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(model, store := opened(model, tmp_path), PREFIX)
    monkeypatch.setattr(store, "read", None)
    with scheduling(model, store) as write:
        assert write("the tree and the rain").reused == 0


@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_chats_begin_with_the_systems_turn(altered_bundle: Any, tmp_path: Path) -> None:
    folder = altered_bundle(files={"chat_template.jinja": TEMPLATE.encode()})
    with edgegpt.load(folder, "cpu", threads=1) as model:
        assert model.tokenizer is not None
        assert model.tokenizer.decode(prefix_ids(model, "a tree")) == "s a tree\nu "
        keep(model, opened(model, tmp_path), "a tree")
        roles = {"system": "a tree", "user": "rain"}
        messages = [{"role": role, "content": content} for role, content in roles.items()]
        with serving(model, store=opened(model, tmp_path)) as served:
            _, found, _ = served.ask("/v1/chat/completions", {"messages": messages, "seed": 1})
            details = found["usage"]["prompt_tokens_details"]
            assert details["cached_tokens"] == len("s a tree\nu ")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def remade(path: Path, change: Any) -> None:
    """Write the file again with other arrays, and with the metadata of its old ones."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        told = file.metadata()
    save_file(change(load_file(path)), path, told)


def longer(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.concatenate([one, one], axis=-1) for name, one in arrays.items()}


def as_halves(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: one if name == "ids" else one.astype(np.float16) for name, one in arrays.items()}


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a bit of a key": lambda path: flip(path, -5),
    "a bit of the header": lambda path: flip(path, 30),
    "no metadata": lambda path: save_file(load_file(path), path),
    "other shapes": lambda path: remade(path, longer),
    "another type": lambda path: remade(path, as_halves),
    "other ids": lambda path: remade(path, lambda old: old | {"ids": old["ids"][::-1].copy()}),
    "nothing but ids": lambda path: remade(path, lambda old: {"ids": old["ids"]}),
    "text": lambda path: path.write_text("no keys, no values"),
    "a deep header": lambda path: path.write_bytes((99_999).to_bytes(8, "little") + b"[" * 99_999),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_told_once_and_fed_again(
    model: LanguageModel, tmp_path: Path, damage: str
) -> None:
    keep(model, store := opened(model, tmp_path), PREFIX)
    DAMAGE[damage](store.prefixes[0].path)
    with pytest.warns(EdgeGPTWarning, match="has 1 damaged file") as told:
        store = opened(model, tmp_path)
    assert len(told) == 1
    assert store.prefixes == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if damage == "a folder" else "error", EdgeGPTWarning)
        assert keep(model, store, PREFIX).fed
    if damage != "a folder":  # which nobody but its owner removes
        assert not keep(model, opened(model, tmp_path), PREFIX).fed


def test_a_file_that_is_damaged_later_is_told_once_and_not_used(
    model: LanguageModel, tmp_path: Path
) -> None:
    keep(model, store := opened(model, tmp_path), PREFIX)
    flip(store.prefixes[0].path, -5)
    with scheduling(model, None) as cold:
        expected = cold(PREFIX + " it")
    with scheduling(model, store, rows=1) as warm:
        with pytest.warns(EdgeGPTWarning, match="damaged or gone; it is not used any more"):
            found = warm(PREFIX + " it")
        assert written(found) == written(expected)
        assert found.reused == 0
        warm(OTHER)
        assert warm(PREFIX + " a").reused == 0  # a second warning would be an error here


def test_files_of_another_bundle_or_engine_are_told_once_and_left_alone(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(model, opened(model, tmp_path), PREFIX)
    (file,) = tmp_path.iterdir()
    (tmp_path / "notes.safetensors").write_text("mine")
    before = file.read_bytes()
    info = model.engine.info
    kinds = {
        "bundle": None,
        "version": replace(info, version="0"),
        "device": replace(info, device="gpu"),
        "processor": replace(info, processor="x86_64 avx"),
        "threads": replace(info, threads=9),
    }
    for kind, other in kinds.items():
        with monkeypatch.context() as patch:
            if other is not None:
                patch.setattr(type(model.engine), "info", other)
            bundle = "b" * 64 if kind == "bundle" else model.bundle.manifest.id
            with pytest.warns(EdgeGPTWarning, match="1 file of another bundle or engine,") as told:
                assert PrefixStore(tmp_path, bundle, model.engine).prefixes == []
            assert len(told) == 1
    assert file.read_bytes() == before
    renamed = file.with_name(file.name.replace(file.name[17:49], "0" * 32))
    file.rename(renamed)
    with pytest.warns(EdgeGPTWarning, match="1 damaged file"):
        assert opened(model, tmp_path).prefixes == []


def test_names_and_folders_tell_nothing(model: LanguageModel, tmp_path: Path) -> None:
    keep(model, opened(model, tmp_path / "a" / "b"), PREFIX)
    (file,) = (tmp_path / "a" / "b").iterdir()
    assert prefix_store.NAME.fullmatch(file.name)
    assert file.parent.stat().st_mode & 0o077 == 0


def test_files_that_were_not_used_for_longest_make_room(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [PREFIX, OTHER, "old and sad or new"]
    store = opened(model, tmp_path)
    sizes = [keep(model, store, text).size for text in texts]
    for age, prefix in enumerate(store.prefixes):
        os.utime(prefix.path, (age, age))
    (tmp_path / "mine.txt").write_text("x" * 10**6)
    leftover = tmp_path / f".{store.prefixes[0].path.name}.abcd"
    leftover.write_bytes(b"x" * 100)
    os.utime(leftover, (0, 0))
    keep(model, again := opened(model, tmp_path), PREFIX)  # used now
    again.prefixes = [one for one in again.prefixes if one.ids == model.encode_prompt(PREFIX)]
    monkeypatch.setattr(prefix_store, "MOST_BYTES", sum(sizes) + 200)
    keep(model, again, "the tree is sad")
    names = {path.name for path in tmp_path.iterdir()}
    assert leftover.name not in names
    assert "mine.txt" in names
    left = [opened(model, tmp_path).find(model.encode_prompt(text)) is not None for text in texts]
    assert left == [True, False, True]
    monkeypatch.setattr(prefix_store, "MOST_BYTES", sizes[0] + 200)
    with pytest.warns(EdgeGPTWarning, match="has no room"):
        keep(model, again, OTHER)
    assert opened(model, tmp_path).find(model.encode_prompt(PREFIX)) is not None


def test_a_prefix_that_cannot_be_written_is_told_and_the_work_goes_on(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = opened(model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(prefix_store, "write_file", full)
        with pytest.warns(EdgeGPTWarning, match="No space left on device"):
            kept = keep(model, store, PREFIX)
    assert (kept.size, store.prefixes) == (0, [])
    monkeypatch.setattr(prefix_store, "MOST_BYTES", 1000)
    with pytest.warns(EdgeGPTWarning, match="has no room for 0.0 MB more"):
        keep(model, store, PREFIX)
    assert list(tmp_path.iterdir()) == []


def test_impossible_prefixes_and_folders_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    store = opened(model, tmp_path)
    for text in ("", "a", "a" * model.context):
        with pytest.raises(InvalidInputError, match=f"a prefix of {len(text)} tokens cannot"):
            keep(model, store, text)
    (file := tmp_path / "file").write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(DataError, match="cannot keep prefixes in"):
            opened(model, folder)


def test_an_engine_that_cannot_read_its_caches_is_refused_by_name(
    small_bundle: Path, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = host_engine(Bundle.open(small_bundle))
    monkeypatch.setattr(type(model), "engine", engine)
    with pytest.raises(EngineError, match=f"with {engine.info.name} on {engine.info.device}: it"):
        keep(model, opened(model, tmp_path), PREFIX)
    assert list(tmp_path.iterdir()) == []


def test_slots_that_are_not_there_are_not_read(model: LanguageModel) -> None:
    with model.engine.new_state(1, 8) as state:
        for slots, row in ((9, 0), (-1, 0), (1, 1)):
            with pytest.raises(InvalidInputError, match=f"cannot read {slots} slots of row {row}"):
                state.past(slots, row)


@pytest.fixture
def serve(small_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Return a function that runs `edgegpt serve` up to where it would wait for requests."""
    stores: list[PrefixStore] = []

    def run(app: Any, service: Any, *_: Any) -> None:
        stores.append(service.scheduler.store)
        service.scheduler.close()

    monkeypatch.setattr("edgegpt.runtime.server.run.run", run)

    def serve(*options: object) -> tuple[int, str, PrefixStore | None]:
        stores.clear()
        with pytest.raises(SystemExit) as stop:
            main(["serve", str(small_bundle), "--port=0", "--backend=cpu", *map(str, options)])
        return int(stop.value.code or 0), capsys.readouterr().err, stores[0] if stores else None

    return serve


def test_a_mark_of_utf_8_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    assert _keys((), tmp_path / "keys.txt") == ["one", "two"]


def test_what_editors_of_windows_add_makes_no_other_prefix(tmp_path: Path) -> None:
    file = tmp_path / "windows.txt"
    file.write_bytes(b"\xef\xbb\xbfFirst,\r\nsecond.\r\n")
    assert _prefixes((file,), tmp_path) == {file: "First,\nsecond."}


def test_the_command_computes_prefixes_once(serve: Any, tmp_path: Path) -> None:
    (file := tmp_path / "system.txt").write_text(PREFIX + "\n")
    options = "--prefix", file, "--prefix-dir", tmp_path / "kept"
    for how in ("computed", "there already"):
        code, told, store = serve(*options)
        assert code == 0
        assert f"prefix {file}: {len(PREFIX)} tokens, 0.0 MB, {how}, 0." in told
        assert [one.ids for one in store.prefixes] == [store.prefixes[0].ids]
        assert isinstance(store.prefixes[0], Prefix)
    code, told, store = serve("--prefix-dir", tmp_path / "kept")
    assert (code, len(store.prefixes)) == (0, 1)


def test_the_command_refuses_what_is_no_prefix(serve: Any, tmp_path: Path) -> None:
    (file := tmp_path / "system.txt").write_bytes(b"\xff\xfe")
    code, told, _ = serve("--prefix", file)
    assert (code, "--prefix needs a --prefix-dir" in told) == (1, True)
    for one in (file, tmp_path / "none", tmp_path):
        code, told, _ = serve("--prefix", one, "--prefix-dir", tmp_path / "kept")
        assert (code, told.count("\n")) == (1, 1)
        assert "cannot read a --prefix" in told
    file.write_text("")
    code, told, _ = serve("--prefix", file, "--prefix-dir", tmp_path / "kept")
    assert (code, "a prefix of 0 tokens cannot be kept" in told) == (1, True)
