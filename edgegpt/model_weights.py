"""A model's weights by name, read when they are asked for, and models that are built without them.

A skeleton is a model whose weights have shapes and no memory. Weights are a mapping from the names
of `named_parameters` to float32 tensors. `StoredWeights` is such a mapping, over a file.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import CheckpointError
from .mapped_tensors import open_tensors
from .model import GPT, GPTConfig, Seq2Seq, Seq2SeqConfig

__all__ = ["StoredWeights", "give_weights", "is_finite", "load_model", "skeleton", "take_weights"]


class StoredWeights(Mapping[str, Tensor]):
    """The tensors of a safetensors file, as float32. Each access reads the tensor again.

    The file is mapped into memory for the time of the access, so that no page of it stays. Only a
    tensor that is stored in float32 remains a view of the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the table of contents.

        Raises:
            CheckpointError: if the file is damaged, or cannot be mapped.
        """
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        with self._opened() as file:
            for name in file.keys():  # noqa: SIM118 - the file is no dictionary
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor `name`, float32.

        Raises:
            CheckpointError: if it has a value that is not finite in float32.
        """
        if name not in self.shapes:
            raise KeyError(name)
        with self._opened() as file:
            tensor: Tensor = file.get_tensor(name).float()
        if not is_finite(tensor):
            raise CheckpointError(f"{self.path}: {name} has values that are not finite")
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the file."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.shapes)

    def _opened(self) -> Any:
        return open_tensors(self.path)


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a float tensor are finite."""
    if tensor.numel() == 0:
        return True
    least, most = tensor.aminmax()  # both are NaN if a value is; `isfinite` takes 30 times as long
    return bool(least.isfinite() & most.isfinite())


# Fill a new weight with random numbers. On the meta device PyTorch does it by a decomposition, for
# which it imports its compiler, torch._dynamo; that takes more than a second.
RANDOM = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    nn.init.xavier_uniform_,
)


class _NoMemory(TorchFunctionMode):
    """Put new weights, which modules make with `torch.empty`, on the meta device.

    They are not initialised. Tables that a model computes are made as usual.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`."""
        given = dict(kwargs or {})
        if func in RANDOM:
            return given["tensor"] if "tensor" in given else args[0]
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


@overload
def skeleton(config: GPTConfig) -> GPT: ...


@overload
def skeleton(config: Seq2SeqConfig) -> Seq2Seq: ...


def skeleton(config: GPTConfig | Seq2SeqConfig) -> GPT | Seq2Seq:
    """Return a model in eval mode whose weights are on the meta device."""
    with _NoMemory():
        model = Seq2Seq(config) if isinstance(config, Seq2SeqConfig) else GPT(config)
        return model.eval()


@overload
def load_model(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT: ...


@overload
def load_model(config: Seq2SeqConfig, weights: Mapping[str, Tensor]) -> Seq2Seq: ...


def load_model(config: GPTConfig | Seq2SeqConfig, weights: Mapping[str, Tensor]) -> GPT | Seq2Seq:
    """Return a model in eval mode with all its weights."""
    model = skeleton(config)
    give_weights(model, weights, [name for name, _ in model.named_parameters()])
    return model


def give_weights(model: GPT | Seq2Seq, weights: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Give a skeleton the weights `names`, and those that are tied to them."""
    tied = model.tied_names()
    for name in names:
        parameter = nn.Parameter(weights[name])
        for place in (name, *(other for other, own in tied.items() if own == name)):
            _set(model, place, parameter)


def take_weights(model: GPT | Seq2Seq, names: Iterable[str]) -> None:
    """Free the weights that `give_weights` gave."""
    own = dict(model.named_parameters())
    give_weights(model, {name: own[name].data.to("meta") for name in names}, names)


def _set(model: GPT | Seq2Seq, name: str, parameter: nn.Parameter) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(module), leaf, parameter)
