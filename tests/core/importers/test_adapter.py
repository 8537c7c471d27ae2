"""LoRA adapters, merged on the way in, give what peft's `merge_and_unload` gives."""

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layernorm_configs import CASES as LAYERNORM
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_checkpoints import LIMIT, SIZES, error, save_tiny
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from edgegpt.checkpoint import load_checkpoint
from edgegpt.errors import CheckpointError
from edgegpt.importers.adapter import adapted
from edgegpt.importers.huggingface import open_folder
from edgegpt.importers.run import look, write
from edgegpt.model import GPT

WEIGHTS = "adapter_model.safetensors"
LLAMA = LlamaConfig(**SIZES)
ALL = "all-linear"
FALCONS = [name for name in LAYERNORM if name.startswith("falcon")]


def save_adapter(
    base: PreTrainedModel, folder: Path, *, copies: bool = False, **settings: Any
) -> None:
    """Write an adapter with random matrices for `base`, which stays as it is."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.2 * torch.randn_like(parameter))
        # By default, an adapter on the head brings along a copy of the head.
        model.save_pretrained(folder, save_embedding_layers=copies)


def merged(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Return the model that peft merges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()


def imported(source: Path, adapter: Path, out: Path) -> GPT:
    out.mkdir()
    write(look(adapted(open_folder(source), adapter)), out)
    return load_checkpoint(out).model


CASES: dict[str, tuple[PretrainedConfig, dict[str, Any]]] = {
    "llama": (LLAMA, {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj"]}),
    "all linear layers": (LLAMA, {"r": 3, "lora_alpha": 5, "target_modules": ALL}),
    "rsLoRA": (LLAMA, {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ALL}),
    "patterns": (
        LLAMA,
        {
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 5, r"layers\.(0|2)\.mlp\.down_proj": 3, "_proj": 9},
            # Of two that match, the first one counts.
            "alpha_pattern": {"layers.1.self_attn.v_proj": 20, "mlp.*": 7, "mlp.up_proj": 30},
        },
    ),
    "patterns with rsLoRA": (
        LLAMA,
        {
            "r": 2,
            "use_rslora": True,
            "target_modules": r".*\.(q|k)_proj",
            "rank_pattern": {"k_proj": 4},
            "alpha_pattern": {"q_proj": 3},
        },
    ),
    "one layer": (LLAMA, {"target_modules": ["up_proj"], "layers_to_transform": [1]}),
    "a layer by its pattern": (
        LLAMA,
        {"target_modules": ["up_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
    ),
    "a module by its whole name, whatever the layers": (
        LLAMA,
        {"target_modules": ["model.layers.0.mlp.up_proj", "q_proj"], "layers_to_transform": [1]},
    ),
    "a pattern of modules, but for some": (
        LLAMA,
        {
            "target_modules": r".*\.(q|o)_proj",
            "exclude_modules": ["model.layers.0.self_attn.o_proj"],
        },
    ),
    "the head": (LLAMA, {"target_modules": ["lm_head", "gate_proj"]}),
    "the embedding": (LLAMA, {"target_modules": ["embed_tokens", "v_proj"], "r": 4}),
    "biases": (Qwen2Config(**SIZES), {"target_modules": ["k_proj", "down_proj"]}),
    "packed": (Phi3Config(**SIZES), {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    # Queries, keys and values in one matrix, by groups of heads; one of each variant of Falcon.
    **{
        name: (LAYERNORM[name], {"r": 4, "target_modules": ["query_key_value", "dense_4h_to_h"]})
        for name in FALCONS
    },
    "transposed": (
        GPT2Config(vocab_size=97, n_positions=128, n_embd=32, n_layer=2, n_head=4),
        {"target_modules": ["c_attn", "c_proj"]},
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_a_merged_adapter_computes_what_peft_does(tmp_path: Path, name: str) -> None:
    config, settings = CASES[name]
    source, adapter = tmp_path / "source", tmp_path / "adapter"
    base = save_tiny(config, source)
    save_adapter(base, adapter, **settings)
    ours = imported(source, adapter, tmp_path / "out")
    assert error(base, ours) > 100 * LIMIT  # the adapter matters
    assert error(merged(base, adapter), ours) <= LIMIT


def test_weights_of_a_transposed_base_without_a_prefix_are_found(tmp_path: Path) -> None:
    """GPT-2's files on the Hub lack `transformer.`, which the adapter's names have."""
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=1, n_head=4)
    base = save_tiny(config, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    save_file(bare, tmp_path / "model.safetensors")
    save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj"])
    ours = adapted(open_folder(tmp_path), tmp_path / "adapter").tensors
    theirs = merged(base, tmp_path / "adapter").state_dict()
    for name in bare:
        assert torch.allclose(ours.read(name), theirs[f"transformer.{name}"], atol=1e-6), name
    assert not torch.equal(ours.read("h.0.attn.c_attn.weight"), bare["h.0.attn.c_attn.weight"])


def test_merged_weights_are_float32_and_the_others_keep_their_type(tmp_path: Path) -> None:
    source = tmp_path / "source"
    base = save_tiny(LLAMA, source)
    save_adapter(base, tmp_path / "adapter", target_modules=["v_proj"])
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(source)
    tensors = adapted(open_folder(source), tmp_path / "adapter").tensors
    place = "model.layers.0.self_attn."
    assert tensors.dtype(f"{place}v_proj.weight") == torch.float32
    assert tensors.read(f"{place}v_proj.weight").dtype == torch.float32
    assert tensors.dtype(f"{place}o_proj.weight") == torch.bfloat16
    assert tensors.read(f"{place}o_proj.weight").dtype == torch.bfloat16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    base = save_tiny(LLAMA, folder / "source")
    save_adapter(base, folder / "adapter", r=2, target_modules=["q_proj", "down_proj"])
    return folder


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint, not to be changed, and an adapter that can be merged with it."""
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    return made / "source", tmp_path / "adapter"


def refusal(folders: tuple[Path, Path]) -> str:
    source, adapter = folders
    with pytest.raises(CheckpointError) as caught:
        adapted(open_folder(source), adapter)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA': only LoRA"),
        ({"peft_type": None}, "peft_type is None: only LoRA"),
        ({"target_modules": ["v_proj"]}, "is of a module that target_modules"),
        ({"target_modules": r".*\.v_proj"}, "is of a module that target_modules"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"exclude_modules": ["q_proj"]}, "q_proj.lora_A.weight is of a module that"),
        ({"layers_to_transform": [1]}, "layers.0.mlp.down_proj.lora_A.weight is of a module that"),
        ({"layers_to_transform": [0, 1, 2], "layers_pattern": "h"}, "is of a module that"),
        ({"layers_to_transform": 0, "layers_pattern": "(h"}, "layers_pattern has the pattern"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform is ['0']"),
        ({"use_dora": True}, "use_dora is True: DoRA"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save is ['embed_tokens']"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is [3]"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication is"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters is"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1]"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"swirl": 2}, "the setting swirl is not known for LoRA adapters"),
        ({"r": 0}, "r is 0"),
        ({"r": 3}, "by the settings its rank is 3"),
        ({"r": None}, "the setting r is missing"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, which is not a finite number"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern gives 'q_proj' the value -1"),
        ({"rank_pattern": {"(q_proj": 2}}, "rank_pattern has the pattern '(q_proj'"),
        ({"alpha_pattern": {"(a+)+b": 2}}, "which may take too long"),
        ({"alpha_pattern": {".*.*.*.*x": 2}}, "which may take too long"),
        ({"fan_in_fan_out": True}, "does not fit"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_refused_by_name(
    folders: tuple[Path, Path], changes: dict[str, Any], named: str
) -> None:
    set_config(folders[1], **changes)
    assert named in refusal(folders)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.update({f"{Q}.bias": torch.ones(32)}), f"{Q}.bias is no matrix of LoRA"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), f"{Q}.lora_A.weight lacks its other half"),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(31, 2)}),
            "has the shape [31, 2], which does not fit model.layers.0.self_attn.q_proj.weight",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(2, 31)}),
            "has the shape [2, 31], which does not fit",
        ),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(())}), "has the shape []"),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(2, 32, dtype=torch.int8)}),
            "is of type I8",
        ),
        (
            lambda t: t.update(
                {
                    f"base_model.model.vision.{half}.weight": torch.ones(2, 2)
                    for half in ("lora_A", "lora_B")
                }
            ),
            "no weight of its own for vision",
        ),
        (
            lambda t: t.update({f"{EMBEDDING}.lora_embedding_A": torch.ones(2, 97)}),
            "lora_embedding_A lacks its other half",
        ),
        (
            lambda t: t.update({f"{EMBEDDING}.base_layer.weight": torch.ones(98, 64)}),
            "an adapter that resizes a weight is not merged",
        ),
        (lambda t: t.clear(), "holds no matrices of LoRA"),
    ],
)
def test_every_tensor_of_an_adapter_has_to_find_its_weight(
    folders: tuple[Path, Path], change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    set_weights(folders[1], change)
    assert named in refusal(folders)


def test_values_that_are_not_finite_are_refused_with_the_adapters_name(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    set_weights(folders[1], lambda t: t[f"{Q}.lora_B.weight"].fill_(float("inf")))
    found = look(adapted(open_folder(folders[0]), folders[1]))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: {Q}.lora_B.weight has values that are"):
        write(found, tmp_path)


@pytest.mark.parametrize("stored", [False, True], ids=["left out", "stored"])
def test_an_adapter_on_a_tied_head_is_refused(tmp_path: Path, stored: bool) -> None:
    base = save_tiny(LLAMA, tmp_path / "source")
    save_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    tied = LlamaConfig(**SIZES, tie_word_embeddings=True)
    save_tiny(tied, tmp_path / "source")
    if stored:
        path = tmp_path / "source/model.safetensors"
        tensors = load_file(path)
        save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    message = refusal((tmp_path / "source", tmp_path / "adapter"))
    assert "no weight of its own for lm_head: it may be tied" in message


def test_square_weights_do_not_show_whether_they_are_transposed(tmp_path: Path) -> None:
    base = save_tiny(LLAMA, tmp_path / "source")
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "o_proj"])
    set_config(tmp_path / "adapter", fan_in_fan_out=True)
    assert "all weights are square" in refusal((tmp_path / "source", tmp_path / "adapter"))


def test_a_pickled_or_missing_adapter_is_refused(folders: tuple[Path, Path]) -> None:
    (folders[1] / WEIGHTS).rename(folders[1] / "adapter_model.bin")
    assert "adapter_model.bin is pickled" in refusal(folders)
    (folders[1] / "adapter_model.bin").unlink()
    assert f"{WEIGHTS} is missing" in refusal(folders)
    (folders[1] / "adapter_config.json").unlink()
    assert "is no LoRA adapter of PEFT: it has no adapter_config.json" in refusal(folders)
    assert "is a file; --adapter takes the folder" in refusal((folders[0], Path(__file__)))
    assert "does not exist; --adapter takes" in refusal((folders[0], folders[1] / "gone"))


def test_copies_of_the_base_that_peft_saves_must_be_as_the_base(tmp_path: Path) -> None:
    source, adapter = tmp_path / "source", tmp_path / "adapter"
    base = save_tiny(LLAMA, source)
    save_adapter(base, adapter, copies=True, target_modules=["embed_tokens", "lm_head"])
    names = load_file(adapter / WEIGHTS).keys()
    assert {f"{EMBEDDING}.base_layer.weight", "base_model.model.lm_head.base_layer.weight"} <= names
    ours = imported(source, adapter, tmp_path / "out")
    assert error(merged(base, adapter), ours) <= LIMIT
    set_weights(adapter, lambda t: t[f"{EMBEDDING}.base_layer.weight"].add_(0.01))
    found = look(adapted(open_folder(source), adapter))
    with pytest.raises(CheckpointError, match=r"base_layer.weight differs from model.embed_tokens"):
        write(found, tmp_path)


def test_an_adapter_on_a_tied_embedding_is_refused(tmp_path: Path) -> None:
    base = save_tiny(LlamaConfig(**SIZES, tie_word_embeddings=True), tmp_path / "source")
    save_adapter(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    message = refusal((tmp_path / "source", tmp_path / "adapter"))
    assert "model.embed_tokens is tied with the head, which would change, too" in message


def test_an_adapter_of_another_base_is_noted(folders: tuple[Path, Path]) -> None:
    source, adapter = folders
    for name in ("someone/Source", "C:\\models\\source", "/data/source/", "", None):
        set_config(adapter, base_model_name_or_path=name)
        assert adapted(open_folder(source), adapter).notes == ()
    set_config(adapter, base_model_name_or_path="Qwen/Qwen3-0.6B")
    (note,) = look(adapted(open_folder(source, "a/source@0123456"), adapter)).notes
    assert note == (
        "the adapter was made for 'Qwen/Qwen3-0.6B', and the model is called 'a/source@0123456': "
        "check that they are the same"
    )


def test_a_pattern_of_modules_that_may_take_long_is_not_tried_and_noted(
    folders: tuple[Path, Path],
) -> None:
    set_config(folders[1], target_modules="(.*)*x", base_model_name_or_path=None)
    (note,) = adapted(open_folder(folders[0]), folders[1]).notes
    assert note.startswith("target_modules of the adapter is a pattern that may take too long")
