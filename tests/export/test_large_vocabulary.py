"""Vocabularies above 4,096: the best 64 logits of each position are kept, and are enough."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgegpt.checkpoint import save_config, save_weights
from edgegpt.export import export_bundle
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, Bundle
from edgegpt.runtime.bundle.golden import Golden, Top
from edgegpt.runtime.bundle.manifest import FileEntry
from edgegpt.runtime.proof.compare import compare
from edgegpt.runtime.proof.verify import verify

VOCABULARY = 5000


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    sizes = {"block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}
    model = GPT(GPTConfig(vocab_size=VOCABULARY, head_bias=True, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: GPT) -> Path:
    folder = tmp_path_factory.mktemp("large")
    (folder / "ckpt").mkdir()
    save_config(folder / "ckpt", model.config)
    save_weights(folder / "ckpt", model, torch.float32)
    assert export_bundle(folder / "ckpt", folder / "bundle").passed
    return folder / "bundle"


def test_only_the_best_64_logits_are_kept(bundle: Path, model: GPT) -> None:
    golden = Golden.load(bundle / GOLDEN_NAME)
    prompt = golden.chunked
    assert prompt.top is not None
    assert prompt.logits.shape == prompt.top.ids.shape == (24, 64)
    with torch.no_grad():
        logits = model(torch.from_numpy(prompt.ids)[None])[0]
    best = logits.topk(64)
    np.testing.assert_array_equal(prompt.top.ids, best.indices.numpy())
    np.testing.assert_allclose(prompt.top.log_sum_exp, logits.logsumexp(-1).numpy(), rtol=1e-6)
    positions = sum(len(p.ids) for p in [*golden.prefill, golden.chunked, *golden.ragged])
    assert (bundle / GOLDEN_NAME).stat().st_size < 1000 * positions


@pytest.fixture
def change(bundle: Path) -> Callable[[str, Callable[[NDArray[np.float32]], None]], Bundle]:
    """Return a function that edits a weight and the manifest; restore both after the test."""
    files = {name: (bundle / name).read_bytes() for name in ("weights.safetensors", "edgegpt.json")}

    def edit(name: str, damage: Callable[[NDArray[np.float32]], None]) -> Bundle:
        manifest = Bundle.open(bundle).manifest
        entry = manifest.weights[name]
        raw = bytearray(files["weights.safetensors"])
        damage(np.frombuffer(raw, np.float32, entry.size // 4, entry.offset))
        (bundle / "weights.safetensors").write_bytes(raw)
        changed = FileEntry(len(raw), hashlib.sha256(raw).hexdigest())
        table = manifest.files | {"weights.safetensors": changed}
        (bundle / "edgegpt.json").write_text(replace(manifest, files=table).to_json())
        return Bundle.open(bundle)

    yield edit
    for name, raw in files.items():
        (bundle / name).write_bytes(raw)


def test_a_wrong_weight_is_caught(change) -> None:
    changed = change("blocks.1.attention.qkv.weight", lambda array: np.negative(array, out=array))
    assert not verify(changed).passed


def test_a_wrong_logit_that_was_not_kept_is_caught_by_the_sum(bundle: Path, change) -> None:
    golden = Golden.load(bundle / GOLDEN_NAME)
    prompts = [*golden.prefill, *golden.ragged, golden.chunked]
    kept = {int(token) for prompt in prompts for token in prompt.top.ids.flat}
    never = next(token for token in range(VOCABULARY) if token not in kept)

    def raise_it(bias: NDArray[np.float32]) -> None:
        bias[never] += 1.0

    receipt = verify(change("head.bias", raise_it))
    assert not receipt.passed


def test_the_figures_of_kept_logits_are_those_of_all() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(3, 50)).astype(np.float32) * 4
    found = reference + rng.normal(size=(3, 50)).astype(np.float32) * 1e-3
    ids = np.argsort(-reference, axis=-1)[:, :40]
    total = np.log(np.exp(reference.astype(np.float64)).sum(-1)).astype(np.float32)
    kept = compare(found, np.take_along_axis(reference, ids, -1), Top(ids, total))
    whole = compare(found, reference)
    assert kept.top1_agreement == whole.top1_agreement == 1.0
    assert kept.max_abs <= whole.max_abs
    assert kept.max_abs == pytest.approx(whole.max_abs, rel=0.5)
    assert kept.kl <= whole.kl * 1.01 + 1e-9
    assert kept.kl == pytest.approx(whole.kl, rel=0.3)
