"""Encoder-decoders in plain state dicts keep their logits: PyTorch's module, and the lesson."""

import math
from pathlib import Path

import pytest
import torch
from pair_configs import LENGTHS, imported, texts
from torch import Tensor, nn

from edgegpt.errors import CheckpointError
from edgegpt.importers.check import report
from edgegpt.importers.importing import Named, survey
from edgegpt.importers.open import open_source
from edgegpt.importers.run import look

VOCABULARY, TARGETS, WIDTH, HEADS, BLOCK, LAYERS = 23, 19, 32, 4, 16, 2
LIMIT = 3e-6  # of the largest logit: two correct float32 engines differ by 2e-6


class Lesson(nn.Module):
    """Attention of the lesson: four linear layers, and heads cut from them."""

    def __init__(self) -> None:
        super().__init__()
        for name in "qkvo":
            setattr(self, f"fc_{name}", nn.Linear(WIDTH, WIDTH))

    def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.fc_q, query), (self.fc_k, key), (self.fc_v, key))
        )
        energy = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH // HEADS)
        mixed = energy.masked_fill(~mask, -1e10).softmax(-1) @ v  # (B, H, T, D)
        return self.fc_o(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, sourced: bool) -> None:
        super().__init__()
        self.self_attn_layer_norm, self.ff_layer_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.self_attention = Lesson()
        if sourced:
            self.enc_attn_layer_norm, self.encoder_attention = nn.LayerNorm(WIDTH), Lesson()
        self.positionwise_feedforward = nn.ModuleDict(
            {"fc_1": nn.Linear(WIDTH, 40), "fc_2": nn.Linear(40, WIDTH)}
        )

    def forward(self, x: Tensor, mask: Tensor, source: Tensor | None, beyond: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attention(x, x, mask))
        if source is not None:
            x = self.enc_attn_layer_norm(x + self.encoder_attention(x, source, beyond))
        wide = self.positionwise_feedforward["fc_1"](x).relu()
        return self.ff_layer_norm(x + self.positionwise_feedforward["fc_2"](wide))


class Side(nn.Module):
    def __init__(self, rows: int, sourced: bool) -> None:
        super().__init__()
        self.tok_embedding, self.pos_embedding = (
            nn.Embedding(rows, WIDTH),
            nn.Embedding(BLOCK, WIDTH),
        )
        self.layers = nn.ModuleList(Layer(sourced) for _ in range(LAYERS))
        if sourced:
            self.fc_out = nn.Linear(WIDTH, rows)

    def forward(self, ids: Tensor, mask: Tensor, source: Tensor | None, beyond: Tensor) -> Tensor:
        x = self.tok_embedding(ids) * math.sqrt(WIDTH)
        x = x + self.pos_embedding(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x, mask, source, beyond)
        return x


class LessonPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Side(VOCABULARY, False), Side(TARGETS, True)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        beyond = (torch.arange(source.shape[1]) < lengths[:, None])[:, None, None]
        causal = torch.ones(target.shape[1], target.shape[1]).tril().bool()
        stream = self.encoder(source, beyond, None, beyond)
        return self.decoder.fc_out(self.decoder(target, causal, stream, beyond))


class Around(nn.Module):
    """An nn.Transformer, with what PyTorch's tutorial on translation has around it."""

    def __init__(self, *, norm_first: bool = False, table: bool = True) -> None:
        super().__init__()
        self.transformer = nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS + 1, 40, batch_first=True, norm_first=norm_first
        )
        self.src_tok_emb = nn.ModuleDict({"embedding": nn.Embedding(VOCABULARY, WIDTH)})
        self.tgt_tok_emb = nn.ModuleDict({"embedding": nn.Embedding(TARGETS, WIDTH)})
        self.generator = nn.Linear(WIDTH, TARGETS)
        self.positional_encoding = nn.Module()
        sines = torch.randn(BLOCK, 1, WIDTH)
        self.positional_encoding.register_buffer("pos_embedding", sines, persistent=table)

    def at(self, embedding: nn.Module, ids: Tensor) -> Tensor:
        table = self.positional_encoding.pos_embedding.flatten(0, 1)[: ids.shape[1]]
        return embedding(ids) * math.sqrt(WIDTH) + table

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        beyond = torch.arange(source.shape[1]) >= lengths[:, None]
        stream = self.transformer(
            self.at(self.src_tok_emb["embedding"], source),
            self.at(self.tgt_tok_emb["embedding"], target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
            src_key_padding_mask=beyond,
            memory_key_padding_mask=beyond,
        )
        return self.generator(stream)


def saved(model: nn.Module, path: Path) -> nn.Module:
    """Write the state dict of a model in which every weight matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save(model.state_dict(), path)
    return model.eval()


def check(theirs: nn.Module, folder: Path, toml: str, n_head: int | None = None) -> None:
    """Compare the model in FILE.pt with the one imported with a TOML file."""
    (folder / "shape.toml").write_text(toml)
    source = open_source(folder / "model.pt", n_head, shape=folder / "shape.toml")
    ours, _ = imported(source, folder / "checkpoint")
    torch.backends.mha.set_fastpath_enabled(False)  # it fills what is beyond with zeros
    with torch.no_grad():
        source, lengths, target = texts(ours)
        expected = theirs(source, lengths, target)
        error = (ours(source, lengths, target) - expected).abs().max() / expected.abs().max()
    assert len(LENGTHS) == len(expected)
    assert float(error) <= LIMIT


def test_the_lesson_keeps_its_logits(tmp_path: Path) -> None:
    theirs = saved(LessonPair(), tmp_path / "model.pt")
    check(theirs, tmp_path, "", n_head=HEADS)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_module_of_pytorch_keeps_its_logits(tmp_path: Path, norm_first: bool) -> None:
    theirs = saved(Around(norm_first=norm_first), tmp_path / "model.pt")
    placement = "pre" if norm_first else "post"
    check(theirs, tmp_path, f'n_head = {HEADS}\nnorm_placement = "{placement}"\n')


def test_without_a_toml_file_the_usual_ids_are_taken_and_said(tmp_path: Path) -> None:
    saved(LessonPair(), tmp_path / "model.pt")
    found = survey(Named(str(tmp_path / "model.pt"), n_head=HEADS))
    usage = found.text.usage
    assert (usage.start_ids, usage.end_ids, usage.pad_id) == ((2,), (3,), 1)
    assert usage.source is not None
    assert (usage.source.prefix_ids, usage.source.suffix_ids) == ((2,), (3,))
    assert "start 2, end 3, pad 1" in found.notes[0]


def test_a_check_counts_sources_of_another_length(tmp_path: Path) -> None:
    pair = LessonPair()
    pair.encoder.pos_embedding = nn.Embedding(3 * BLOCK, WIDTH)
    saved(pair, tmp_path / "model.pt")
    found = report(survey(Named(str(tmp_path / "model.pt"), n_head=HEADS)))
    assert (found.context, found.export_context, found.source_context) == (BLOCK, BLOCK, 3 * BLOCK)
    assert found.cache_bytes == 2 * LAYERS * WIDTH * (BLOCK + 3 * BLOCK) * 4


@pytest.mark.parametrize(
    ("toml", "reason"),
    [
        ("n_head = 5", "is not a multiple of n_head"),
        ("n_haed = 4", "the setting n_haed is not known"),
        ("n_head = ", "is not valid TOML"),
        ("start = 99", "the decoder_start id is 99, but there are 19 ids"),
        ("start = -1", "start is -1, which is not a token id"),
        ('position = "sinusoidal"', "the lesson's positions are trained"),
        ("d_model = 64", "d_model is 32 by the tensors, not 64"),
    ],
)
def test_a_toml_file_that_makes_no_sense_is_refused(tmp_path: Path, toml: str, reason: str) -> None:
    saved(LessonPair(), tmp_path / "model.pt")
    (tmp_path / "shape.toml").write_text(toml)
    with pytest.raises(CheckpointError, match=reason):
        survey(Named(str(tmp_path / "model.pt"), shape=tmp_path / "shape.toml"))


def test_a_module_without_embeddings_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Transformer(WIDTH, HEADS, 1, 1, 40).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"has an nn\.Transformer, but no source embedding"):
        look(open_source(tmp_path / "model.pt", HEADS))
