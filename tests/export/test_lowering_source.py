"""Attention over sources, lowered and run alone, against float64."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.export.lowerings import LEGACY, ORT, STANDARD, Lowering
from edgegpt.model.source_attention import source_attention

HEADS, WIDTH, SCALE = 4, 8, 0.3


class Layer(torch.nn.Module):
    def forward(self, q, k, v, source_len, bias=None):
        return source_attention(q, k, v, source_len, bias, n_head=HEADS, scale=SCALE)


def build(lowering: Lowering, path: Path, *, biased: bool) -> onnxruntime.InferenceSession:
    size = torch.export.Dim
    sources, new, places = size("sources"), size("new"), size("places")
    kept = {0: sources, 2: places}
    # Rows are a multiple of the sources, which torch.export cannot be told; another name will do.
    rows = sources if biased else size("rows")
    q = torch.zeros(2 if biased else 6, 3, HEADS * WIDTH)
    k = torch.zeros(2, HEADS, 5, WIDTH)
    inputs = [q, k, k.clone(), torch.ones(2, dtype=torch.int64)]
    shapes = [{0: rows, 1: new}, kept, kept, {0: sources}]
    if biased:
        inputs.append(torch.zeros(1, HEADS, 3, 5))
        shapes.append({2: new, 3: places})
    program = torch.onnx.export(
        Layer().eval(),
        tuple(inputs),
        dynamo=True,
        dynamic_shapes=tuple(shapes),
        opset_version=lowering.opset,
        custom_translation_table=dict(lowering.translations),
        input_names=["q", "k", "v", "source_len", "bias"][: len(inputs)],
        output_names=["out"],
        verbose=False,
    )
    program.model.ir_version = lowering.ir_version
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def reference(
    q: NDArray, k: NDArray, v: NDArray, lengths: list[int], bias: NDArray | None
) -> NDArray[np.float64]:
    """Attend from each token of each row, head by head, to the places that its source has."""
    rows, new, _ = q.shape
    out = np.zeros((rows, new, HEADS, WIDTH))
    for row, token, head in np.ndindex(rows, new, HEADS):
        source = row * len(k) // rows
        length = lengths[source]
        query = q[row, token].reshape(HEADS, WIDTH)[head].astype(np.float64)
        scores = k[source, head, :length].astype(np.float64) @ query * SCALE
        if bias is not None:
            scores += bias[0, head, token, :length]
        weights = np.exp(scores - scores.max())
        out[row, token, head] = weights @ v[source, head, :length] / weights.sum()
    return out.reshape(rows, new, HEADS * WIDTH)


@pytest.mark.filterwarnings("ignore")  # of torch.export, about axes that happen to be equal
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("lowering", [ORT, STANDARD, LEGACY], ids=lambda it: it.name)
def test_each_row_attends_to_its_own_source(
    tmp_path: Path, lowering: Lowering, biased: bool
) -> None:
    session = build(lowering, tmp_path / "layer.onnx", biased=biased)
    rng = np.random.default_rng(0)
    for sources, beams, new, places in ((1, 1, 1, 5), (3, 1, 4, 9), (2, 3, 1, 7), (4, 2, 3, 12)):
        if biased and beams > 1:
            continue
        q = rng.standard_normal((sources * beams, new, HEADS * WIDTH), np.float32)
        k, v = (rng.standard_normal((sources, HEADS, places, WIDTH), np.float32) for _ in "kv")
        lengths = [max(1, places - 3 * index) for index in range(sources)]
        for index, length in enumerate(lengths):  # what stands behind a source is never seen
            k[index, :, length:], v[index, :, length:] = 1e3, 1e4
        feeds = {"q": q, "k": k, "v": v, "source_len": np.array(lengths)}
        bias = rng.standard_normal((1, HEADS, new, places), np.float32) if biased else None
        if bias is not None:
            feeds["bias"] = bias
        (found,) = session.run(None, feeds)
        wanted = reference(q, k, v, lengths, bias)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        parts = {name: torch.from_numpy(array) for name, array in feeds.items()}
        own: Tensor = Layer()(*parts.values())
        np.testing.assert_allclose(own.numpy(), wanted, atol=2e-5)
