"""`edgegpt import`: the lesson's model, written here from scratch, keeps its logits.

Every file that is not such a model is refused by name, and no code in it is run.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgegpt.checkpoint import load_checkpoint
from edgegpt.runtime.text.tokenizer import Tokenizer

VOCABULARY, BLOCK, LAYERS, HEADS, WIDTH = 19, 16, 2, 2, 24


class Head(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.key = nn.Linear(WIDTH, WIDTH // HEADS, bias=False)
        self.query = nn.Linear(WIDTH, WIDTH // HEADS, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH // HEADS, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(BLOCK, BLOCK)))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        weights = self.query(x) @ self.key(x).transpose(-2, -1) * self.scale  # (B, T, T)
        weights = weights.masked_fill(self.tril[:length, :length] == 0, float("-inf"))
        return F.softmax(weights, dim=-1) @ self.value(x)


class MultiHeadAttention(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(scale) for _ in range(HEADS))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.sa = MultiHeadAttention(scale)
        self.ffd = FeedForward()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sa(self.ln1(x))
        return x + self.ffd(self.ln2(x))


class LessonModel(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.token_embedding_table = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embedding_table = nn.Embedding(BLOCK, WIDTH)
        self.blocks = nn.Sequential(*[Block(scale) for _ in range(LAYERS)])
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        place = self.position_embedding_table(torch.arange(ids.shape[1]))
        x = self.blocks(self.token_embedding_table(ids) + place)
        return self.lm_head(self.ln_f(x))


SCALES = {"head_dim": (WIDTH // HEADS) ** -0.5, "n_embd": WIDTH**-0.5}
IDS = torch.randint(0, VOCABULARY, (3, BLOCK), generator=torch.Generator().manual_seed(1))


def lesson_model(scale: str = "head_dim") -> LessonModel:
    """Return a model in which every weight affects the output, also the biases and norms."""
    torch.manual_seed(0)
    model = LessonModel(SCALES[scale]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def lesson_state() -> dict[str, Tensor]:
    return dict(lesson_model().state_dict())


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def refused(edgegpt: Callable, tmp_path: Path) -> Callable[[Path], str]:
    """Return a function that asserts that a file is refused, and returns the message."""

    def see(file: Path) -> str:
        out = tmp_path / "refused"
        outcome = edgegpt("import", file, "--out", out)
        assert outcome.code == 1
        assert outcome.err.startswith("error: ")
        assert not out.exists()
        assert not list(tmp_path.glob(".*"))
        return outcome.err

    return see


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("scale", list(SCALES))
@torch.no_grad()
def test_the_imported_model_gives_the_same_logits(
    edgegpt: Callable, tmp_path: Path, scale: str, wrapper: str | None
):
    lesson = lesson_model(scale)
    state = lesson.state_dict()
    content = state if wrapper is None else {wrapper: state, "step": 5000, "loss": 1.5}
    file, out = saved(tmp_path / "lesson.pt", content), tmp_path / "out"
    outcome = edgegpt("import", file, "--out", out, "--attention-scale", scale)
    assert outcome.code == 0, outcome.err
    imported = load_checkpoint(out).model
    torch.testing.assert_close(imported(IDS), lesson(IDS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(imported(IDS[:, :5]), lesson(IDS[:, :5]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("true", "given"), [("head_dim", "n_embd"), ("n_embd", "head_dim")])
@torch.no_grad()
def test_the_wrong_scale_gives_other_logits(
    edgegpt: Callable, tmp_path: Path, true: str, given: str
):
    lesson = lesson_model(true)
    file, out = saved(tmp_path / "lesson.pt", lesson.state_dict()), tmp_path / "out"
    assert edgegpt("import", file, "--out", out, "--attention-scale", given).code == 0
    assert float((load_checkpoint(out).model(IDS) - lesson(IDS)).abs().max()) > 1e-2


def test_the_scale_is_that_of_the_head_unless_said_otherwise(edgegpt: Callable, tmp_path: Path):
    file, out = saved(tmp_path / "lesson.pt", lesson_state()), tmp_path / "out"
    edgegpt("import", file, "--out", out)
    assert load_checkpoint(out).model.config.attention_scale == (WIDTH // HEADS) ** -0.5


@pytest.mark.parametrize("name", ["ffwd.net", "ffwd.network", "ffd.net", "ffd.network"])
@torch.no_grad()
def test_the_feed_forward_has_one_of_four_names(edgegpt: Callable, tmp_path: Path, name: str):
    state = {key.replace("ffd.network", name): value for key, value in lesson_state().items()}
    file, out = saved(tmp_path / "lesson.pt", state), tmp_path / "out"
    assert edgegpt("import", file, "--out", out).code == 0
    expected = lesson_model()(IDS)
    torch.testing.assert_close(load_checkpoint(out).model(IDS), expected, rtol=1e-5, atol=1e-5)


GUESS = "does not say by what the scores of attention are multiplied"


@pytest.mark.parametrize("scale", [None, "n_embd"])
def test_a_guessed_scale_is_told(edgegpt: Callable, tmp_path: Path, scale: str | None):
    given = [] if scale is None else ["--attention-scale", scale]
    file = saved(tmp_path / "lesson.pt", lesson_state())
    for wanted in (["--out", tmp_path / "out"], ["--check"]):
        notes = json.loads(edgegpt("import", file, "--json", *wanted, *given).out)["notes"]
        assert any(GUESS in note for note in notes) == (scale is None)


CHARACTERS = "abcdefghijklmnop \nü"
STOI = {character: number for number, character in enumerate(CHARACTERS)}


@torch.no_grad()
def written_by(model: LessonModel) -> str:
    """Return a text of blocks that the model writes, each from a character of its own."""
    torch.manual_seed(5)
    ids = torch.randint(0, VOCABULARY, (64, 1))
    for _ in range(BLOCK - 1):
        ids = torch.cat([ids, torch.multinomial(model(ids)[:, -1].softmax(-1), 1)], dim=1)
    return "".join(CHARACTERS[number] for number in ids.flatten().tolist())


@pytest.mark.parametrize("scale", list(SCALES))
def test_with_a_text_the_better_scale_is_taken(edgegpt: Callable, tmp_path: Path, scale: str):
    lesson = lesson_model(scale)
    data, out = tmp_path / "text.txt", tmp_path / "out"
    data.write_text(written_by(lesson))
    content = {"model": lesson.state_dict(), "stoi": STOI}
    outcome = edgegpt("import", saved(tmp_path / "a.pt", content), "--out", out, "--data", data)
    assert outcome.code == 0, outcome.err
    assert f"multiplied by {scale} to the power -1/2, as the loss on text.txt is" in outcome.err
    assert GUESS not in outcome.err
    assert load_checkpoint(out).model.config.attention_scale == SCALES[scale]


def test_a_text_that_cannot_be_measured_on_is_refused(edgegpt: Callable, tmp_path: Path):
    file, out = saved(tmp_path / "lesson.pt", lesson_state()), tmp_path / "out"
    with_table = saved(tmp_path / "table.pt", {"model": lesson_state(), "stoi": STOI})
    data = tmp_path / "text.txt"
    data.write_text("zebra")
    for source, options, reason in [
        (file, ["--data", data], "has no stoi or itos"),
        (with_table, ["--data", data], "the character 'z'"),
        (with_table, ["--data", tmp_path / "none"], f"no file at {tmp_path / 'none'}"),
        (with_table, ["--data", data, "--attention-scale", "n_embd"], "leave the other one out"),
    ]:
        outcome = edgegpt("import", source, "--out", out, *options)
        assert (outcome.code, out.exists()) == (1, False)
        assert reason in outcome.err


ITOS = dict(enumerate(CHARACTERS))


@pytest.mark.parametrize(
    "tables",
    [
        {"stoi": STOI},
        {"itos": ITOS},
        {"itos": list(CHARACTERS), "stoi": STOI},
        {"meta": {"itos": ITOS}},
    ],
)
def test_tables_of_characters_make_the_tokenizer(edgegpt: Callable, tmp_path: Path, tables: dict):
    file, out = saved(tmp_path / "a.pt", {"model": lesson_state()} | tables), tmp_path / "out"
    assert "tokenizer" not in edgegpt("import", file, "--out", out).err
    tokenizer = Tokenizer(load_checkpoint(out).tokenizer_json)
    assert tokenizer.encode("pa \nü") == [15, 0, 16, 17, 18]
    assert tokenizer.decode([15, 0, 16, 17, 18]) == "pa \nü"


@pytest.mark.parametrize(
    "tables",
    [
        {"stoi": STOI | {"b": 0}},
        {"stoi": STOI, "itos": ITOS | {0: "b", 1: "a"}},
        {"stoi": {"ab": 0}},
        {"stoi": {"a": 1.5}},
        {"stoi": {"a": -1}},
        {"stoi": 3},
        {"itos": {0: "\ud800"}},
    ],
    ids=str,
)
def test_tables_of_something_else_make_no_tokenizer(
    edgegpt: Callable, tmp_path: Path, tables: dict
):
    file, out = saved(tmp_path / "a.pt", {"model": lesson_state()} | tables), tmp_path / "out"
    assert "no tokenizer is made of them" in edgegpt("import", file, "--out", out).err
    assert load_checkpoint(out).tokenizer_json is None


def test_a_table_of_another_model_is_refused(refused: Callable, tmp_path: Path):
    content = {"model": lesson_state(), "stoi": STOI | {"q": VOCABULARY}}
    assert "it belongs to another model" in refused(saved(tmp_path / "a.pt", content))


def test_a_file_without_the_mask_buffers_is_read_too(edgegpt: Callable, tmp_path: Path):
    state = {name: value for name, value in lesson_state().items() if "tril" not in name}
    assert len(state) == len(lesson_state()) - LAYERS * HEADS
    file, out = saved(tmp_path / "lesson.pt", state), tmp_path / "out"
    assert edgegpt("import", file, "--out", out).code == 0


def test_the_user_is_told_that_the_tokenizer_is_missing(edgegpt: Callable, tmp_path: Path):
    file, out = saved(tmp_path / "lesson.pt", lesson_state()), tmp_path / "out"
    outcome = edgegpt("import", file, "--out", out)
    assert "note: the file has no tokenizer" in outcome.err
    assert load_checkpoint(out).tokenizer_json is None


def test_the_result_is_printed_as_json_when_asked(edgegpt: Callable, tmp_path: Path):
    file, out = saved(tmp_path / "lesson.pt", lesson_state()), tmp_path / "out"
    result = json.loads(edgegpt("import", file, "--out", out, "--json").out)
    assert result["checkpoint"] == str(out)
    assert result["parameters"] == sum(p.numel() for p in lesson_model().parameters())
    sizes = {"vocab_size": 19, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 24}
    assert sizes.items() <= result["model"].items()


@pytest.mark.parametrize("name", [name for name in lesson_state() if "tril" not in name])
def test_each_missing_key_is_refused_by_name(refused: Callable, tmp_path: Path, name: str):
    state = lesson_state()
    del state[name]
    assert name in refused(saved(tmp_path / "lesson.pt", state))


@pytest.mark.parametrize(
    "name",
    [
        "extra.weight",
        "blocks.0.sa.heads.0.key.bias",
        "blocks.1.sa.heads.1.dropout.tril",
        "blocks.0.sa.tril",
        "blocks.0.sa.heads.0.tril_2",
        "module.blocks.0.sa.heads.0.tril",
        "tril",
        "blocks.1.ffd.network.4.weight",
        "_orig_mod.ln_f.weight",
    ],
)
def test_each_left_over_key_is_refused_by_name(refused: Callable, tmp_path: Path, name: str):
    state = lesson_state() | {name: torch.zeros(BLOCK, BLOCK)}
    assert name in refused(saved(tmp_path / "lesson.pt", state))


@pytest.mark.parametrize(
    "name", ["lm_head.bias", "blocks.1.sa.heads.0.query.weight", "position_embedding_table.weight"]
)
def test_a_wrong_shape_is_refused_by_name(refused: Callable, tmp_path: Path, name: str):
    state = lesson_state()
    state[name] = state[name][..., :-1].clone()
    said = refused(saved(tmp_path / "lesson.pt", state))
    assert name in said
    assert str(list(state[name].shape)) in said


def test_an_embedding_of_three_axes_is_refused_by_name(refused: Callable, tmp_path: Path):
    state = lesson_state() | {"token_embedding_table.weight": torch.zeros(2, 3, 4)}
    assert "token_embedding_table.weight" in refused(saved(tmp_path / "lesson.pt", state))


class RunsCode:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("modern", [True, False])
def test_a_file_that_would_run_code_is_refused(refused: Callable, tmp_path: Path, modern: bool):
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    content = lesson_state() | {"evil": RunsCode(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    assert "could run code" in refused(file)
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused_with_advice(refused: Callable, tmp_path: Path):
    assert "state_dict()" in refused(saved(tmp_path / "model.pt", nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "content", [[1, 2], {"step": 5}, {"weight": [1.0]}, {}, {1: torch.ones(1)}], ids=str
)
def test_a_file_without_a_state_dict_is_refused(refused: Callable, tmp_path: Path, content: object):
    file = saved(tmp_path / "lesson.pt", content)
    assert str(file) in refused(file)


@pytest.mark.parametrize(
    "raw", [b"", b"no PyTorch file\n", b"PK\x03\x04 torn", bytes(range(256))], ids=repr
)
def test_a_file_that_is_no_pytorch_file_is_refused(refused: Callable, tmp_path: Path, raw: bytes):
    file = tmp_path / "lesson.pt"
    file.write_bytes(raw)
    assert str(file) in refused(file)


def test_a_truncated_file_is_refused(refused: Callable, tmp_path: Path):
    file = saved(tmp_path / "lesson.pt", lesson_state())
    file.write_bytes(file.read_bytes()[:-1000])
    assert str(file) in refused(file)


def test_a_missing_file_is_refused(refused: Callable, tmp_path: Path):
    assert f"no file at {tmp_path / 'none.pt'}" in refused(tmp_path / "none.pt")


def test_a_folder_without_a_config_is_refused(refused: Callable, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    assert str(tmp_path / "folder" / "config.json") in refused(tmp_path / "folder")


def test_an_existing_destination_is_refused_and_left_alone(edgegpt: Callable, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    file = saved(tmp_path / "lesson.pt", lesson_state())
    outcome = edgegpt("import", file, "--out", out)
    assert outcome.code == 1
    assert f"{out} exists already" in outcome.err
    assert [path.name for path in out.iterdir()] == ["note.txt"]
