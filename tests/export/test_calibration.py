"""Calibration texts, and the sums over what layers read of them."""

import pytest
import torch
from torch import nn

from edgegpt.errors import InvalidInputError
from edgegpt.export.quantization import cut_windows, own_windows, scored_windows
from edgegpt.export.quantization.calibration import gram, summed_inputs
from edgegpt.model import GPT, GPTConfig


def test_hessians_are_sums_over_all_inputs_and_hooks_are_removed() -> None:
    linear = nn.Linear(3, 2)
    inputs = torch.randn(2, 5, 3)
    with summed_inputs({"it": linear}, gram) as hessians:
        for part in inputs:
            linear(part)
    flat = inputs.reshape(10, 3).double()
    torch.testing.assert_close(hessians["it"], flat.T @ flat, rtol=1e-5, atol=1e-5)
    linear(inputs)
    torch.testing.assert_close(hessians["it"], flat.T @ flat, rtol=1e-5, atol=1e-5)


def test_windows_are_cut_from_the_start_without_overlap() -> None:
    assert cut_windows(list(range(11)), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(InvalidInputError, match="3 tokens"):
        cut_windows([1, 2, 3], 4)


def test_scored_windows_share_the_token_between_them():
    assert scored_windows(list(range(11)), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    with pytest.raises(InvalidInputError, match="3 tokens"):
        scored_windows([1, 2, 3], 3)


def test_a_model_writes_from_its_own_distribution() -> None:
    """The text of a bigram model (blocks that add nothing) must follow its probabilities."""
    config = GPTConfig(vocab_size=3, block_size=24, n_layer=1, n_head=4, n_embd=40)
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        model.token_embedding.weight.normal_(std=0.3)
        model.head.weight.normal_(std=0.3)
        model.blocks[0].attention.proj.weight.zero_()
        model.blocks[0].feed_forward.down.weight.zero_()
        model.position_embedding.weight.zero_()
        expected = model(torch.arange(3)[:, None])[:, 0].softmax(-1)
    written = own_windows(model, 300)
    assert written.shape == (300, 24)
    assert torch.equal(written, own_windows(model, 300))
    pairs = torch.zeros(3, 3)
    pairs.index_put_((written[:, :-1].flatten(), written[:, 1:].flatten()), torch.ones(()), True)
    shares = pairs / pairs.sum(1, keepdim=True)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.06)


def test_a_gram_matrix_is_whole_whatever_its_width() -> None:
    for width in (1, 40, 512, 1100):
        x = torch.randn(2, 15, width, dtype=torch.float64)
        flat = x.flatten(0, 1)
        torch.testing.assert_close(gram(x.float()), flat.T @ flat, rtol=1e-4, atol=1e-4)
