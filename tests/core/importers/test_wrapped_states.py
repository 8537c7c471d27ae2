"""State dicts are found whatever trainers put around them, and the user is told which was read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgegpt.errors import CheckpointError
from edgegpt.importers.state import state_of

LESSON = {"token_embedding_table.weight": torch.ones(3, 2), "ln_f.bias": torch.zeros(2)}
OTHER = {name: tensor + 1 for name, tensor in LESSON.items()}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, tuple[Any, str]] = {
    "nothing": (LESSON, ""),
    "torch.compile": (under("_orig_mod.", LESSON), ""),
    "DistributedDataParallel": (under("module.", LESSON), ""),
    "both": (under("module._orig_mod.", LESSON), ""),
    "both, the other way": (under("_orig_mod.module.", LESSON), ""),
    "Lightning": ({"state_dict": under("model.", LESSON), "epoch": 3}, ""),
    "Lightning with another name": (
        {"state_dict": under("net.", LESSON)},
        "read from state_dict.net",
    ),
    "AveragedModel": (under("module.", LESSON) | {"n_averaged": torch.tensor(3)}, ""),
    "FSDP": (
        {
            "_fsdp_wrapped_module.token_embedding_table._fsdp_wrapped_module.weight": LESSON[
                "token_embedding_table.weight"
            ],
            "_fsdp_wrapped_module.ln_f.bias": LESSON["ln_f.bias"],
        },
        "",
    ),
    "two dicts": ({"checkpoint": {"model": LESSON}}, "read from checkpoint.model"),
    "five dicts": ({"a": {"b": {"c": {"d": {"e": LESSON}}}}}, "read from a.b.c.d.e"),
    "an optimizer": (
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "weights": LESSON},
        "",
    ),
    "an empty model": ({"model": {}, "ema": LESSON}, ""),
    "tensors that are no model": ({"model": {"steps": torch.ones(2)}, "net": LESSON}, ""),
    "an average beside it": (
        {"ema": OTHER, "model": LESSON},
        "several models, in model, ema: the first of them is read",
    ),
    "an average among it": (
        under("online_model.", LESSON)
        | under("ema_model.", OTHER)
        | {"initted": torch.tensor(True)},
        "several models, in online_model, ema_model: the first of them is read",
    ),
    "an average below it": (
        LESSON | under("ema.", OTHER),
        "several models, in the top, ema: the first of them is read",
    ),
}


@pytest.mark.parametrize("wrapper", list(WRAPPED))
def test_the_state_is_found_in_its_wrapper(wrapper: str) -> None:
    content, told = WRAPPED[wrapper]
    found = state_of(content, Path("a.pt"))
    assert found.tensors.keys() == LESSON.keys()
    assert all(torch.equal(found.tensors[name], LESSON[name]) for name in LESSON)
    assert [told in note for note in found.notes] == ([True] if told else [])


def test_a_file_that_holds_itself_is_read_to_its_end() -> None:
    content: dict[str, Any] = {"model": {}}
    content["model"]["parent"] = content
    with pytest.raises(CheckpointError, match="holds no state dict"):
        state_of(content, Path("a.pt"))
    content["model"]["net"] = LESSON
    assert state_of(content, Path("a.pt")).tensors.keys() == LESSON.keys()


def test_what_stands_beside_the_state_is_known_the_nearest_first() -> None:
    found = state_of({"a": {"model": LESSON, "x": 1}, "x": 2, "y": 3}, Path("a.pt"))
    assert (found.beside["x"], found.beside["y"]) == (1, 3)


def test_two_names_that_a_wrapper_alone_tells_apart_are_refused() -> None:
    state = LESSON | {"_orig_mod.ln_f.bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"_orig_mod\.ln_f\.bias is a second tensor for ln_f"):
        state_of(state, Path("a.pt"))


def test_a_tensor_beside_the_model_is_kept_to_be_refused_by_name() -> None:
    state = under("model.", LESSON) | {"loss.weight": torch.ones(3)}
    assert "loss.weight" in state_of(state, Path("a.pt")).tensors
