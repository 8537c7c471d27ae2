"""Encoder and decoder of an encoder-decoder as ONNX graphs, run and compared with PyTorch."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from seq2seq_models import LENGTHS, VARIANTS, seq2seq, texts

from edgegpt.export.graph import build_graph
from edgegpt.export.lowerings import LEGACY, ORT, STANDARD, Lowering
from edgegpt.export.tracing import Traced, trace_decoder, trace_encoder
from edgegpt.model import Seq2Seq

SLOTS = 11


def session(traced: Traced, lowering: Lowering, path: Path) -> onnxruntime.InferenceSession:
    ir.save(build_graph(traced, lowering), path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, feeds: dict[str, NDArray]) -> dict[str, NDArray]:
    """Run a graph with those of the feeds that it has; return its outputs by name."""
    wanted = {port.name: feeds[port.name] for port in session.get_inputs()}
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, wanted), strict=True))


def step(past_len: NDArray[np.int64], new: int) -> dict[str, NDArray]:
    """Return the feeds of a step that follow from the lengths, in all their forms."""
    rows = len(past_len)
    positions = np.arange(new, dtype=np.int64)
    return {
        "past_len": past_len,
        "seqlens_k": (past_len + new - 1).astype(np.int32),
        "total_sequence_length": np.array([past_len.max() + new], dtype=np.int32),
        "position_ids": past_len[:, None] + positions,
        "logit_positions": np.broadcast_to(positions, (rows, new)),
    }


def logits_of(
    encoder: onnxruntime.InferenceSession,
    decoder: onnxruntime.InferenceSession,
    model: Seq2Seq,
    source: NDArray[np.int64],
    lengths: NDArray[np.int64],
    target: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the logits of targets that are fed in pieces of 3, 1 and 1 tokens."""
    config, rows = model.config.decoder, len(target)
    kept = run(encoder, {"source_ids": source, "source_len": lengths})
    empty = np.zeros((rows, config.n_kv_head, SLOTS, config.head_dim), dtype=np.float32)
    cache = {f"past_{kind}.{layer}": empty for layer in range(config.n_layer) for kind in "kv"}
    past_len, found = np.zeros(rows, dtype=np.int64), []
    for piece in np.split(target, [3, 4], axis=1):
        feeds = step(past_len, piece.shape[1])
        if len(decoder.get_inputs()[1].shape) and "logit_positions" in feeds:
            port = next(p for p in decoder.get_inputs() if p.name == "logit_positions")
            feeds["logit_positions"] = feeds["logit_positions"].reshape(
                *feeds["logit_positions"].shape, *[1] * (len(port.shape) - 2)
            )
        made = run(decoder, {"ids": piece, "source_len": lengths, **feeds, **kept, **cache})
        found.append(made.pop("logits"))
        cache = {name.replace("present", "past"): array for name, array in made.items()}
        past_len = past_len + piece.shape[1]
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("lowering", [ORT, STANDARD, LEGACY], ids=lambda it: it.name)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graphs_compute_what_pytorch_does(
    tmp_path: Path, variant: str, lowering: Lowering
) -> None:
    model = seq2seq(VARIANTS[variant])
    encoder = session(trace_encoder(model), lowering, tmp_path / "encoder.onnx")
    decoder = session(trace_decoder(model), lowering, tmp_path / "decoder.onnx")
    source = texts(3, 9)
    for beams in (1, 3):
        target = texts(3 * beams, 5, seed=2)
        with torch.no_grad():
            rows = [part.repeat_interleave(beams, 0) for part in (source, LENGTHS)]
            wanted = model(*rows, target).numpy()
        found = logits_of(encoder, decoder, model, source.numpy(), LENGTHS.numpy(), target.numpy())
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
