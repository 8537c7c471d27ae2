"""The block format: ONNX Runtime's operators read it, and the rounding is good."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgegpt.export.quantization import BlockQuantized, StoredIntegers, round_to_nearest
from edgegpt.export.quantization.gptq import gptq
from edgegpt.export.quantization.quality import round_blocks

GRIDS = [(bits, block, symmetric) for bits in (4, 8) for block in (16, 64) for symmetric in (0, 1)]


def quantized(bits: int, block: int, symmetric: bool, width: int = 96) -> BlockQuantized:
    torch.manual_seed(0)
    return round_to_nearest(torch.randn(40, width) + 0.3, bits, block, symmetric=symmetric)


def run(node: onnx.NodeProto, weights: dict[str, NDArray], **feeds: NDArray) -> NDArray:
    """Return ONNX Runtime's result for one node with these constants and inputs."""
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    inputs = [
        helper.make_tensor_value_info(name, kinds[feed.dtype], feed.shape)
        for name, feed in feeds.items()
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def constants(weight: BlockQuantized, data: NDArray[np.uint8]) -> dict[str, NDArray]:
    zero_points = weight.packed_zero_points()
    arrays = {"data": data, "scales": weight.scales}
    return arrays if zero_points is None else arrays | {"zeros": zero_points}


FLOAT32, INT8 = 1, 4  # accuracy levels of MatMulNBits: how it reads x


def mat_mul(
    weight: BlockQuantized, x: NDArray[np.float32], level: int = FLOAT32
) -> NDArray[np.float32]:
    """Return x @ weight.T by MatMulNBits."""
    arrays = constants(weight, weight.packed)
    rows, width = weight.shape
    node = helper.make_node(
        "MatMulNBits",
        ["x", *arrays],
        ["y"],
        domain="com.microsoft",
        K=width,
        N=rows,
        bits=weight.bits,
        block_size=weight.block,
        accuracy_level=level,
    )
    return run(node, arrays, x=x)


def gather(weight: BlockQuantized, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return rows of the weight by GatherBlockQuantized, from the bytes of MatMulNBits' input B."""
    arrays = constants(weight, weight.packed.reshape(weight.shape[0], -1))
    node = helper.make_node(
        "GatherBlockQuantized",
        ["data", "ids", *list(arrays)[1:]],
        ["y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=1,
        bits=weight.bits,
        block_size=weight.block,
    )
    return run(node, arrays, ids=ids)


def test_what_fills_up_the_last_block_stands_for_zero() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 20)
    for found in (
        gptq(weight, torch.eye(20), 4, 16, symmetric=True),
        round_to_nearest(weight, 4, 16, symmetric=True),
    ):
        assert (found.values[:, 1, 4:] == 8).all()


@pytest.mark.parametrize(("bits", "block", "symmetric"), GRIDS)
@pytest.mark.parametrize("width", [128, 96, 90])
def test_mat_mul_n_bits_reads_the_packed_weight(
    bits: int, block: int, symmetric: bool, width: int
) -> None:
    weight = quantized(bits, block, symmetric, width)
    for rows in (1, 5):
        x = np.random.default_rng(1).standard_normal((rows, width), dtype=np.float32)
        expected = x @ weight.dequantized().T
        np.testing.assert_allclose(mat_mul(weight, x), expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(("bits", "block", "symmetric"), GRIDS)
def test_activations_are_rounded_as_the_int8_kernels_round_them(
    bits: int, block: int, symmetric: bool
) -> None:
    """The rounding moves the products by a thousand times more than the two results differ."""
    weight = quantized(bits, block, symmetric, 90)
    x = np.random.default_rng(1).standard_normal((5, 90), dtype=np.float32)
    x[:, 7] *= 30
    x[2, 16:32] = 0
    kernel = mat_mul(weight, x, INT8)
    rounded = round_blocks(torch.from_numpy(x), block).numpy()
    largest = abs(kernel).max()
    assert abs(mat_mul(weight, rounded) - kernel).max() < 1e-5 * largest
    assert abs(mat_mul(weight, x) - kernel).max() > 3e-3 * largest


@pytest.mark.parametrize(("bits", "block", "symmetric"), GRIDS)
@pytest.mark.parametrize("width", [128, 96])
def test_gather_block_quantized_reads_the_same_bytes(
    bits: int, block: int, symmetric: bool, width: int
) -> None:
    weight = quantized(bits, block, symmetric, width)
    ids = np.array([[3, 0], [39, 3]])
    # The operator returns the padding of the last block, too, so the rows are cut here.
    rows = gather(weight, ids)[..., :width]
    np.testing.assert_array_equal(rows, weight.dequantized()[ids])


@pytest.mark.parametrize(("bits", "block", "symmetric"), GRIDS)
def test_a_weight_moves_by_at_most_half_a_step_or_is_cut_at_the_end_of_the_grid(
    bits: int, block: int, symmetric: bool
) -> None:
    torch.manual_seed(0)
    original = torch.randn(40, 96) + 0.3
    weight = round_to_nearest(original, bits, block, symmetric=symmetric)
    step = np.repeat(abs(weight.scales), block, axis=1)[:, :96]
    error = abs(weight.dequantized() - original.numpy()) / step
    values = weight.values.reshape(40, -1)[:, :96]
    inner = (values > 0) & (values < 2**bits - 1)
    assert error[inner].max() <= 0.5 + 1e-3
    assert error.max() < 2 ** (bits - 4) * 2  # the grid cuts off at most a quarter of the range


def test_every_row_is_quantised_by_itself() -> None:
    """Weights with many rows are quantised in pieces; the result must not depend on the pieces."""
    original = torch.randn(1030, 32)
    weight = round_to_nearest(original, 4, 16, symmetric=False)
    for row in (0, 511, 512, 1029):
        alone = round_to_nearest(original[row : row + 1], 4, 16, symmetric=False)
        np.testing.assert_array_equal(weight.dequantized()[row], alone.dequantized()[0])


def squared_error(original: torch.Tensor, scales: torch.Tensor) -> float:
    rounded = (original / scales).round().clamp(-8, 7) * scales
    return (original - rounded).square().sum().item()


def test_the_searched_scale_beats_both_common_formulas() -> None:
    torch.manual_seed(0)
    original = torch.randn(500, 32)
    weight = round_to_nearest(original, 4, 32, symmetric=True)
    error = (original - torch.from_numpy(weight.dequantized())).square().sum().item()
    largest = original.abs().amax(1, keepdim=True)
    extreme = original.gather(1, original.abs().argmax(1, keepdim=True))
    assert error < 0.9 * squared_error(original, largest / 7)
    assert error < 0.9 * squared_error(original, extreme / -8)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_on_the_grid_come_back_unchanged(bits: int, symmetric: bool) -> None:
    low = -(2 ** (bits - 1)) if symmetric else -3
    original = 0.25 * (low + torch.arange(2**bits, dtype=torch.float32)).view(1, -1)
    weight = round_to_nearest(original, bits, 2**bits, symmetric=symmetric)
    np.testing.assert_allclose(weight.dequantized(), original.numpy(), rtol=1e-6)


def test_a_block_of_zeros_stays_zero() -> None:
    for symmetric in (False, True):
        weight = round_to_nearest(torch.zeros(2, 40), 4, 32, symmetric=symmetric)
        assert np.isfinite(weight.scales).all()
        assert not weight.dequantized().any()


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"),
    [(4, True, 5.0), (4, False, 5.25), (8, True, 9.0), (8, False, 9.25)],
)
def test_size_counts_values_scales_and_zero_points(
    bits: int, symmetric: bool, expected: float
) -> None:
    weight = quantized(bits, 32, symmetric)
    stored = [weight.packed, weight.scales, weight.packed_zero_points()]
    assert weight.size == sum(array.nbytes for array in stored if array is not None)
    # Three blocks of 4 bits need two bytes of zero points, not one and a half.
    assert weight.size * 8 / (40 * 96) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("bits", "block", "symmetric"), GRIDS)
def test_weights_in_files_come_back_as_they_were(
    tmp_path: Path, bits: int, block: int, symmetric: bool
) -> None:
    weight = quantized(bits, block, symmetric, 90)
    stored = StoredIntegers({"a.weight": weight, "b.weight": weight}, tmp_path)
    assert list(stored) == ["a.weight", "b.weight"]
    found = stored["b.weight"]
    assert (found.bits, found.block, found.shape) == (bits, block, weight.shape)
    np.testing.assert_array_equal(found.dequantized(), weight.dequantized())
    assert found.packed.dtype == np.uint8
    assert (found.zero_points is None) == (weight.zero_points is None)
