"""A GGUF file that is damaged, lies or is of another kind is refused with one sentence, at once."""

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from edgegpt.errors import CheckpointError
from edgegpt.importers.gguf.header import read_header
from edgegpt.importers.open import open_source
from edgegpt.importers.run import look

CODES = {int: (4, "<I"), float: (6, "<f"), bool: (7, "<?")}
SIZES = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 4,
    "llama.block_count": 1,
    "llama.feed_forward_length": 8,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
TENSORS = {
    "token_embd.weight": (7, 4),
    "output_norm.weight": (4,),
    "blk.0.attn_norm.weight": (4,),
    "blk.0.attn_q.weight": (4, 4),
    "blk.0.attn_k.weight": (4, 4),
    "blk.0.attn_v.weight": (4, 4),
    "blk.0.attn_output.weight": (4, 4),
    "blk.0.ffn_norm.weight": (4,),
    "blk.0.ffn_gate.weight": (8, 4),
    "blk.0.ffn_up.weight": (8, 4),
    "blk.0.ffn_down.weight": (4, 8),
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def setting(name: str, value: Any) -> bytes:
    if isinstance(value, bytes):  # type and value, ready
        return text(name) + value
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    number, code = CODES[type(value)]
    return text(name) + struct.pack("<I", number) + struct.pack(code, value)


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def contents(
    settings: dict[str, Any] | None = None,
    tensors: list[bytes] | None = None,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 11 * 128,
) -> bytes:
    """Return a file with a model of float32 zeros; the arguments replace parts of it."""
    own = [setting(*item) for item in {**SIZES, **(settings or {})}.items()]
    if tensors is None:
        tensors = [
            tensor(name, shape, 0, 128 * place)
            for place, (name, shape) in enumerate(TENSORS.items())
        ]
    found = counts or (len(tensors), len(own))
    head = b"GGUF" + struct.pack("<IQQ", version, *found) + b"".join(own + tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def refused(path: Path, raw: bytes) -> str:
    """Return the message with which a file is refused."""
    path.write_bytes(raw)
    with pytest.raises(CheckpointError) as caught:
        look(open_source(path))
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    assert len(said) < 600
    return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_the_file_that_the_others_are_made_from_is_a_model(path: Path) -> None:
    path.write_bytes(contents())
    found = look(open_source(path))
    assert found.config.n_embd == 4
    assert found.source.tensors.read("model.layers.0.mlp.gate_proj.weight").shape == (8, 4)


def test_numbers_of_float32_come_as_they_were_written(path: Path) -> None:
    path.write_bytes(contents())
    assert read_header(path).fields["llama.attention.layer_norm_rms_epsilon"] == 1e-5


HUGE = 2**63
ARRAY = struct.pack("<I", 9)
HEADERS = {
    "version 1": (contents(version=1), "version is 1"),
    "version 4": (contents(version=4), "version is 4"),
    "big endian": (contents(version=3 << 24), "big-endian"),
    "more tensors than bytes": (contents(counts=(HUGE, 7)), "cut off"),
    "more settings than bytes": (contents(counts=(11, HUGE)), "cut off"),
    "one tensor too many": (contents(counts=(12, 7)), "0 axes"),
    "a text longer than the file": (
        contents({"general.name": struct.pack("<IQ", 8, HUGE)}),
        "cut off",
    ),
    "an array longer than the file": (
        contents({"general.tags": ARRAY + struct.pack("<IQ", 4, HUGE)}),
        "cut off",
    ),
    "an array of texts longer than the file": (
        contents({"general.tags": ARRAY + struct.pack("<IQ", 8, HUGE)}),
        "cut off",
    ),
    "an array of arrays": (
        contents({"general.tags": ARRAY + struct.pack("<IQ", 9, 1) + bytes(64)}),
        "of the type 9",
    ),
    "an unknown type of setting": (
        contents({"general.tags": struct.pack("<I", 77)}),
        "of the type 77",
    ),
    "a text that is not UTF-8": (
        contents({"general.name": struct.pack("<IQ", 8, 2) + b"\xff\xfe"}),
        "not UTF-8",
    ),
    "an alignment of 0": (contents({"general.alignment": 0}), "general.alignment is 0"),
    "an alignment of 24": (contents({"general.alignment": 24}), "general.alignment is 24"),
    "a setting twice": (
        contents(counts=(11, 8)).replace(
            text("token_embd.weight"), setting("llama.block_count", 1) + text("token_embd.weight")
        ),
        "'llama.block_count' occurs twice",
    ),
    "a tensor twice": (
        contents(tensors=[tensor("a", (4,), 0, 0), tensor("a", (4,), 0, 32)]),
        "'a' occurs twice",
    ),
    "a name that is none": (contents(tensors=[tensor("a\x1b[2J", (4,), 0, 0)]), "is not a name"),
    "a name that is too long": (contents(tensors=[tensor("a" * 64, (4,), 0, 0)]), "too long"),
    "no axes": (contents(tensors=[tensor("a", (), 0, 0)]), "0 axes"),
    "many axes": (contents(tensors=[tensor("a", (1,) * 5, 0, 0)]), "5 axes"),
    "an empty axis": (contents(tensors=[tensor("a", (4, 0), 0, 0)]), "shape [4, 0]"),
    "axes whose product overflows": (
        contents(tensors=[tensor("a", (2**33, 2**33), 0, 0)]),
        "outside of the file",
    ),
    "a tensor beyond the end": (
        contents(tensors=[tensor("a", (4,), 0, 32 * 2**40)]),
        "outside of the file",
    ),
    "a tensor between the places": (
        contents(tensors=[tensor("a", (4,), 0, 4)]),
        "in the midst of others",
    ),
    "an unknown type of tensor": (
        contents(tensors=[tensor("a", (32,), 250, 0)]),
        "of the type 250",
    ),
    "rows that are no whole blocks": (
        contents(tensors=[tensor("a", (4, 33), 8, 0)]),
        "a multiple of 32",
    ),
    "a file without its end": (contents(data=11 * 128 - 200), "cut off"),
}


@pytest.mark.parametrize("name", list(HEADERS))
def test_a_header_that_lies_is_refused(path: Path, name: str) -> None:
    raw, reason = HEADERS[name]
    assert reason in refused(path, raw)


def test_a_header_that_never_ends_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgegpt.importers.gguf.header.LARGEST_HEADER", 100)
    assert "more than 100 bytes" in refused(path, contents())


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown architecture": ({"general.architecture": "mamba"}, "'mamba' cannot be imported"),
    "an adapter": ({"general.type": "adapter"}, "general.type is 'adapter'"),
    "an unknown setting": ({"llama.new_thing": 1}, "new_thing"),
    "a mixture of experts": ({"llama.expert_count": 8}, "mixture of experts"),
    "no causal attention": ({"llama.attention.causal": False}, "not causal"),
    "values of another width": ({"llama.attention.value_length": 4}, "attention.value_length is 4"),
    "more layers than tensors": ({"llama.block_count": 2**31}, "tensors of 1 layers"),
    "a text for a number": ({"llama.block_count": "one"}, "block_count is 'one'"),
    "no heads": ({"llama.attention.head_count": 0}, "attention.head_count is 0"),
    "other sizes than the tensors": ({"llama.feed_forward_length": 9}, "should have [9, 4]"),
    "an unknown scaling": ({"llama.rope.scaling.type": "magic"}, "'magic'"),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_settings_that_cannot_be_imported_are_refused_by_name(path: Path, name: str) -> None:
    settings, reason = SETTINGS[name]
    assert reason in refused(path, contents(settings))


@pytest.mark.parametrize("name", list(SIZES))
def test_a_missing_setting_is_refused_by_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delitem(SIZES, name)
    said = refused(path, contents())
    assert name.removeprefix("llama.").removeprefix("general.") in said or "None" in said


def test_a_file_without_a_model_is_refused(path: Path) -> None:
    assert "it holds no model" in refused(path, contents(tensors=[tensor("a", (4,), 0, 0)]))


def test_a_left_over_tensor_is_refused_by_its_name_in_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TENSORS, "blk.0.attn_sinks.weight", (4,))
    assert "takes blk.0.attn_sinks.weight" in refused(path, contents(data=12 * 128))


def test_a_missing_tensor_is_refused_by_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(TENSORS, "blk.0.ffn_up.weight")
    assert "lacks blk.0.ffn_up.weight, which" in refused(path, contents())


def test_every_truncation_is_refused(path: Path) -> None:
    whole = contents()
    for size in range(4, len(whole) - 128, 7):  # the last tensor fills its 128 bytes
        refused(path, whole[:size])


def test_no_damage_of_the_header_is_more_than_a_sentence(path: Path) -> None:
    """Whatever a byte is changed to: the model opens, or a sentence says why not."""
    whole, chance = contents({"llama.rope.freq_base": 10000.0}), random.Random(0)
    refusals = 0
    for _ in range(400):
        raw = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            raw[chance.randrange(4, len(whole) - 11 * 128)] = chance.choice((0, 1, 127, 255))
        path.write_bytes(raw)
        try:
            look(open_source(path))
        except CheckpointError:
            refusals += 1
    assert refusals > 200
