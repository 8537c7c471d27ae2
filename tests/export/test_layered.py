"""A model that is run layer by layer: it computes what the whole model computes."""

import pytest
import torch

from edgegpt.export import layered
from edgegpt.export.layered import LayeredModel
from edgegpt.model import GPT
from tests.support.small_models import random_model, small_config

IDS = torch.randint(60, (3, 9), generator=torch.manual_seed(0))
KINDS = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "tie_embeddings": True,
    "embedding_scale": 3.0,
    "logit_softcap": 5.0,
}


@pytest.fixture(params=[{}, KINDS], ids=["gpt", "llama"])
def model(request: pytest.FixtureRequest) -> GPT:
    return random_model(small_config(**request.param))


def test_its_logits_are_those_of_the_model(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layered, "LOGITS", 4 * model.config.vocab_size)
    ids, view = IDS % model.config.vocab_size, LayeredModel.of(model)
    pieces = list(view.logits(view.final_stream(ids)))
    assert [len(piece) for piece in pieces] == [4, 4, 1] * 3
    with torch.no_grad():
        wanted = model(ids)
    found = torch.cat(pieces).view(wanted.shape)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_one_layer_at_a_time_has_weights(model: GPT) -> None:
    view = LayeredModel.of(model)
    with view.filled("blocks.1") as lent:
        for name, weight in lent.named_parameters():
            assert weight.is_meta != name.startswith("blocks.1.")
    assert all(weight.is_meta for weight in view.model.parameters())


def test_several_streams_pass_a_block_as_each_would_alone(model: GPT) -> None:
    view, ids = LayeredModel.of(model), IDS % model.config.vocab_size
    stream = view.embedded(ids)
    both = view.after_block(0, stream, 2 * stream)
    assert torch.equal(both[0], view.after_block(0, stream)[0])
    assert torch.equal(both[1], view.after_block(0, 2 * stream)[0])
