"""The reference in float64: it is what the whole model gives when its weights are converted."""

from copy import deepcopy

import pytest
import torch
from small_models import random_model, small_config

from edgegpt.export import exact
from edgegpt.export.exact import Exact
from edgegpt.export.reader import Attending, exact_logits
from tests.support.seq2seq_models import VARIANTS, seq2seq, texts

IDS = torch.randint(60, (1, 9), generator=torch.manual_seed(0))
GATED = {"norm": "rmsnorm", "activation": "silu", "gated": True, "qk_norm": "head"}
KINDS = {
    "gpt": {},
    "rotary": GATED | {"position": "rope", "n_kv_head": 1, "tie_embeddings": True},
    "capped": GATED | {"position": "rope", "attention_softcap": 4.0, "logit_softcap": 5.0},
    "relative": {"position": "relative", "embedding_scale": 3.0},
    "sinusoidal": {"position": "sinusoidal", "embedding_norm": True},
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_gpt_computes_as_if_its_weights_were_float64(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "AT_ONCE", 100)  # several pieces of each weight
    model = random_model(small_config(**settings))
    ids = IDS % model.config.vocab_size
    found = exact_logits(model, ids)
    with torch.no_grad():
        wanted, rounded = deepcopy(model).double()(ids), model(ids)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    assert (rounded - wanted).abs().max() > 1e-7  # float32 would not pass
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("stack", VARIANTS.values(), ids=VARIANTS)
def test_an_encoder_decoder_does_so_with_its_sources(stack: dict[str, object]) -> None:
    model, source, target = seq2seq(stack), texts(1, 7), texts(1, 5, seed=2)
    found = exact_logits(Attending(model, source.tolist()), target)
    with torch.no_grad():
        wanted = deepcopy(model).double()(source, torch.tensor([7]), target)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_whole_numbers_stay_whole() -> None:
    with Exact():
        ids = torch.arange(4) + torch.ones(4, dtype=torch.int64)
        total = torch.stack([torch.ones(2), torch.ones(2)]).sum()
    assert (ids.dtype, total.dtype) == (torch.int64, torch.float64)
