"""Initializers whose values are read when they are written to the bundle, not before."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgegpt.tensor_file import raw_bytes

__all__ = ["LazyWeight", "model_weight", "transposed"]

Values = NDArray[np.generic]


class LazyWeight(ir.LazyTensor):
    """A tensor that `read` makes each time it is wanted; `key` says which values it has.

    `read` takes the type that the values are to have. Two tensors of one name, type and shape whose
    keys are equal have equal values.
    """

    def __init__(
        self,
        read: Callable[[ir.DataType], Values],
        dtype: ir.DataType,
        shape: Sequence[int],
        *,
        name: str,
        key: tuple[object, ...],
    ) -> None:
        self.read, self.key = read, key
        super().__init__(
            lambda: ir.Tensor(read(dtype), dtype=dtype),
            dtype=dtype,
            shape=ir.Shape(shape),
            name=name,
        )

    def as_type(self, dtype: ir.DataType) -> "LazyWeight":
        """Return the same values in another type; none is rounded twice."""
        return LazyWeight(self.read, dtype, self.shape.numpy(), name=str(self.name), key=self.key)


def model_weight(value: ir.Value, weights: Mapping[str, Tensor]) -> LazyWeight:
    """Return what an initializer with the name of a weight holds: the weight, in its type."""
    name, dtype, shape = str(value.name), value.dtype, value.shape
    assert dtype is not None
    assert shape is not None
    kind = {ir.DataType.FLOAT: torch.float32, ir.DataType.FLOAT16: torch.float16}

    def read(wanted: ir.DataType) -> Values:
        tensor = weights[name].to(kind.get(wanted, torch.bfloat16))
        array: Values = raw_bytes(tensor).view(wanted.numpy())  # (values,)
        return array.reshape(tuple(tensor.shape))

    return LazyWeight(read, dtype, shape.numpy(), name=name, key=())


def transposed(tensor: ir.TensorProtocol, order: Sequence[int]) -> LazyWeight:
    """Return `tensor` with its axes in another order; it is transposed when it is read."""
    key = tensor.key if isinstance(tensor, LazyWeight) else (id(tensor),)

    def read(wanted: ir.DataType) -> Values:
        values = tensor.read(wanted) if isinstance(tensor, LazyWeight) else tensor.numpy()
        return np.ascontiguousarray(values.transpose(order))

    return LazyWeight(
        read,
        tensor.dtype,
        [tensor.shape.numpy()[axis] for axis in order],
        name=str(tensor.name),
        key=(*key, tuple(order)),
    )
