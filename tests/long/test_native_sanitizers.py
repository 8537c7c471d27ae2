"""The native engine under sanitizers, outside of Python."""

import shutil
import subprocess
from pathlib import Path

import pytest
from native_models import bundle_of, pair, quantised_bundle
from native_shapes import Flavour, made

from edgegpt.model import GPTConfig, LayerKind
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native.constants import constants_of
from edgegpt.runtime.engines.native.prepare import CONSTANTS, SOURCES
from edgegpt.runtime.engines.native.weights import pack_weights

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="this machine has no g++"),
]
DRIVER = Path(__file__).with_name("native_driver.cpp")
ADDRESS = "-fsanitize=address,undefined,float-cast-overflow"
SHAPES = {
    "narrow": {"n_embd": 7, "n_head": 1, "n_ff": 5, "vocab_size": 1, "block_size": 30},
    "groups": {
        **{"n_embd": 50, "n_head": 6, "n_kv_head": 2, "head_dim": 22, "n_ff": 90, "vocab_size": 67},
        **{"block_size": 300, "norm": "rmsnorm", "position": "rope", "activation": "silu"},
        **{"gated": True, "qk_norm": "head", "attention_softcap": 5.0, "logit_softcap": 9.0},
        **{"layer_kinds": (LayerKind(9, (1.0, 0.1, 0.01)), LayerKind()), "layer_kind": (0, 1)},
    },
    "parallel": {
        **{"n_embd": 48, "n_head": 4, "n_ff": 64, "vocab_size": 40, "block_size": 140},
        **{"parallel": True, "activation": "gelu", "tie_embeddings": True, "qkv_bias": True},
        **{"norm_placement": "sandwich", "qk_norm": "full", "n_layer": 3},
    },
}
MODELS = {
    "narrow, floats": ("narrow", Flavour()),
    "narrow, integers": ("narrow", Flavour(bits=(4, 8, 32), block=512)),
    "narrow, bfloat16": ("narrow", Flavour("BF16")),
    "groups, floats": ("groups", Flavour("F16")),
    "groups, integers": ("groups", Flavour(bits=(4, 8, 32))),
    "parallel, floats": ("parallel", Flavour()),
    "parallel, bfloat16": ("parallel", Flavour("BF16")),
    "parallel, integers": ("parallel", Flavour(bits=(8,), block=64)),
}
PAIRS = {
    "pair, floats": "unlike stacks",
    "pair, distances": "biases by distance",
    "pair, integers": "post-norm",
}


def bundle_for(name: str, folder: Path) -> Bundle:
    if name in MODELS:
        shape, flavour = MODELS[name]
        return made(GPTConfig(**{"n_layer": 2} | SHAPES[shape]), flavour, folder)[0]
    model = pair(PAIRS[name])
    if "integers" in name:
        return quantised_bundle(model, folder, (8, 4), 32)
    return bundle_of(model, folder)


@pytest.fixture(scope="module", params=[*MODELS, *PAIRS])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with constants and packed weights."""
    folder = tmp_path_factory.mktemp("model")
    bundle = bundle_for(request.param, folder / "bundle")
    (folder / CONSTANTS).write_text(constants_of(bundle.manifest))
    pack_weights(bundle, folder / "weights.bin")
    return folder


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "options",
    [
        (ADDRESS, "-march=native"),
        (ADDRESS, "-DEDGEGPT_PLAIN"),
        ("-fsanitize=thread", "-march=native"),
    ],
    ids=["address", "address plain", "thread"],
)
def test_no_sanitizer_finds_anything(model: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    program, sources = tmp_path / "driver", sorted(SOURCES.glob("*.cpp"))
    built = run(
        *("g++", "-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fno-sanitize-recover=all"),
        *(*options, "-Wl,--wrap=mmap,--wrap=munmap", "-pthread", f"-I{model}", f"-I{SOURCES}"),
        *(DRIVER, *sources, "-o", program),
    )
    assert built.returncode == 0, built.stderr[-3000:]
    forks = int("thread" not in options[0])  # which a thread sanitizer does not follow
    for seed in range(3):
        done = run(program, model / "weights.bin", seed, forks)
        assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr[-3000:]
