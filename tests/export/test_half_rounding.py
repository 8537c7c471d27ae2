"""What rounding to 16 bits does to weights, factors and angles, and which limit holds then."""

import copy
from contextlib import closing
from pathlib import Path

import pytest
import torch
from native_builds import NEEDS_COMPILER, native_engine
from native_models import CASES
from small_models import random_model, small_config, write_checkpoint

from edgegpt.errors import NumericalError
from edgegpt.export import export_bundle
from edgegpt.export.half_precision import in_half_precision, round_as
from edgegpt.export.recipes import half_precision as recipe
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify_engine

LLAMA = CASES["llama"] | {"n_embd": 64, "n_head": 4}


def export(folder: Path, model: GPT) -> Receipt:
    source = write_checkpoint(folder / "ckpt", model, None)
    return export_bundle(source, folder / "out", precision="float16")


@pytest.fixture(scope="module")
def llama() -> GPT:
    return random_model(small_config(**LLAMA))


def test_weights_that_are_others_once_they_are_rounded_are_refused(
    tmp_path: Path, llama: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if they were all too small. The golden vectors are of rounded ones, and would agree."""

    def vanish(model: GPT, narrow: GPT) -> None:
        for weight in model.parameters():
            weight.zero_()

    monkeypatch.setattr(recipe, "round_as", vanish)
    with pytest.raises(NumericalError, match=r"weights in float16 move a logit by 1\.0e\+00"):
        export(tmp_path, llama)
    assert not (tmp_path / "out").exists()


def test_bfloat16_is_not_the_remedy_of_bfloat16(llama: GPT) -> None:
    model = copy.deepcopy(llama)
    with torch.no_grad():
        model.norm_final.weight[0] = torch.finfo(torch.float32).max
    for precision, remedy in (("float16", "bfloat16 or float32"), ("bfloat16", "float32")):
        words = f"norm_final.weight has values that {precision} cannot hold: export in {remedy}$"
        with pytest.raises(NumericalError, match=words):
            round_as(copy.deepcopy(model), in_half_precision(model, precision))


def test_a_head_of_zeros_is_what_it_was_once_it_is_rounded(tmp_path: Path) -> None:
    model = random_model(small_config())
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    assert export(tmp_path, model).passed


def test_the_factor_on_scores_is_not_rounded(tmp_path: Path) -> None:
    """As 40 ** -0.5, which moved logits of the legacy graph by 5e-4 in float16."""
    model = random_model(small_config(**LLAMA | {"n_embd": 80, "n_head": 2}))
    receipt = export(tmp_path, model)
    checks = [check for check in receipt.checks if check.name.startswith("legacy")]
    assert checks
    for check in checks:
        assert check.tolerance == TOLERANCES["half weights"]
        assert check.difference.relative < TOLERANCES["float32"]


@pytest.mark.parametrize(
    ("factor", "fits"),
    [
        ({"residual_scale": 0.25, "embedding_scale": 12.0, "attention_softcap": 50.0}, True),
        ({"residual_scale": 0.22}, False),
        ({"embedding_scale": 512**0.5}, False),
        ({"attention_softcap": 8.01}, False),
    ],
)
def test_the_narrow_limit_is_for_factors_that_the_type_holds(
    tmp_path: Path, factor: dict[str, float], fits: bool
) -> None:
    """Exporting rounds the others, which moved logits by up to 1.5e-3."""
    model = random_model(small_config(**LLAMA | factor))
    receipt = export(tmp_path, model)
    limits = {one.tolerance for one in receipt.checks if one.name.endswith("prefill")}
    wide, narrow = TOLERANCES["float16"], TOLERANCES["half weights"]
    assert limits == ({narrow, wide} if fits else {wide})


@NEEDS_COMPILER
def test_a_native_engine_rotates_by_angles_that_are_not_rounded(tmp_path: Path) -> None:
    """So it has the wide limit: it is farther off than a graph in float32 may be."""
    model = random_model(small_config(**LLAMA | {"block_size": 512, "n_layer": 4}))
    assert export(tmp_path, model).passed
    bundle = Bundle.open(tmp_path / "out")
    with closing(native_engine(bundle)) as engine:
        receipt = verify_engine(bundle, engine)
    assert receipt.passed
    checks = [check for check in receipt.checks if check.tolerance]
    assert {check.tolerance for check in checks} == {TOLERANCES["float16"]}
    assert max(check.difference.relative for check in checks) > TOLERANCES["half weights"]
