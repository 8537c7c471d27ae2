"""The command `edgegpt train`: options, refusals, folders that it must not touch, output."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def train(edgegpt: Callable, corpus: Path, tiny_settings: list[str], tmp_path: Path) -> Callable:
    """Return a function that runs `edgegpt train` on the corpus with tiny settings, two steps."""

    def run(out: Path | None = None, options: str = ""):
        out = out or tmp_path / "out"
        return edgegpt(
            *("train", "--data", corpus, "--out", out, *tiny_settings),
            *("--max-steps", 2, *options.split()),
        )

    return run


@pytest.fixture
def resume(edgegpt: Callable, tmp_path: Path) -> Callable:
    def run(options: str = "", out: Path | None = None):
        return edgegpt("train", "--resume", "--out", out or tmp_path / "out", *options.split())

    return run


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_setting_can_be_overridden(train: Callable, tmp_path: Path):
    options = (
        "--n-layer 2 --n-head 4 --n-kv-head 2 --n-embd 32 --n-ff 24 --norm rmsnorm --norm-eps 1e-6 "
        "--position rope --rope-theta 500 --activation silu --gated --qkv-bias --no-proj-bias "
        "--no-ff-bias --no-norm-bias --no-head-bias --tie-embeddings --dropout 0.0 --block-size 8 "
        "--head-dim 12 --attention-scale 0.2 --qk-norm head --norm-placement sandwich --parallel "
        "--attention-softcap 30 --logit-softcap 20 --embedding-scale 2 --residual-scale 0.5 "
        "--no-final-norm --embedding-norm --relative-buckets 8 --relative-distance 9 "
        "--no-relative-shared"
    )
    outcome = train(None, f"{options} --seed 3 --learning-rate 0.5 --beta2 0.9 --grad-clip 2")
    assert outcome.code == 0, outcome.err
    settings = json.loads((tmp_path / "out" / "train" / "settings.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"] == {
        "vocab_size": 16,
        "block_size": 8,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 32,
        "n_kv_head": 2,
        "n_ff": 24,
        "norm": "rmsnorm",
        "norm_eps": 1e-6,
        "position": "rope",
        "rope_theta": 500.0,
        "activation": "silu",
        "gated": True,
        "attention_scale": 0.2,
        "head_dim": 12,
        "qk_norm": "head",
        "norm_placement": "sandwich",
        "final_norm": False,
        "embedding_norm": True,
        "relative_buckets": 8,
        "relative_distance": 9,
        "relative_shared": False,
        "parallel": True,
        "attention_softcap": 30.0,
        "logit_softcap": 20.0,
        "embedding_scale": 2.0,
        "residual_scale": 0.5,
        "layer_kinds": [],
        "layer_kind": [],
        "qkv_bias": True,
        "proj_bias": False,
        "ff_bias": False,
        "norm_bias": False,
        "head_bias": False,
        "tie_embeddings": True,
        "dropout": 0.0,
    }
    given = {"seed": 3, "learning_rate": 0.5, "beta2": 0.9, "grad_clip": 2.0, "weight_decay": 0.1}
    assert given.items() <= settings["train"].items()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--frobnicate 3", "--frobnicate"),
        ("--vocab-size 65", "--vocab-size"),
        ("--batch-tokens 64", "--batch-tokens is not for --task text"),
        ("--label-smoothing 0.1", "--label-smoothing is not for --task text"),
        ("--task seq2seq --batch-size 8", "--batch-size is not for --task seq2seq"),
        ("--n-layer two", "--n-layer"),
        ("--norm batchnorm", "--norm"),
        ("--stop-at 0", "--stop-at"),
        ("surplus", "surplus"),
        ("--resume --force", "--resume"),
        ("--resume --preset shakespeare-char", "--resume"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(
    train: Callable, tmp_path: Path, options: str, named: str
):
    outcome = train(None, options)
    assert outcome.code == 2
    assert named in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--n-head 3", "--n-head (3)"),
        ("--preset gpt-5", "shakespeare-char"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--learning-rate nan", "--learning-rate is nan"),
        ("--block-size 5000", "--block-size"),
        ("--data nowhere.txt", "nowhere.txt"),
    ],
)
def test_an_impossible_run_is_refused_and_leaves_no_folder(
    train: Callable, tmp_path: Path, options: str, named: str
):
    outcome = train(None, options)
    assert outcome.code == 1
    assert named in outcome.err
    assert not (tmp_path / "out").exists()


def test_the_destination_is_asked_for(edgegpt: Callable):
    outcome = edgegpt("train")
    assert (outcome.code, "--out" in outcome.err) == (2, True)


def test_the_result_is_one_line_of_json_when_asked(train: Callable, tmp_path: Path):
    result = json.loads(train(None, "--json").out)
    assert result.keys() == {
        "checkpoint",
        "finished",
        "step",
        "best_validation_loss",
        "parameters",
    }
    assert result["checkpoint"] == str(tmp_path / "out")
    assert (result["finished"], result["step"]) == (True, 2)
    assert 0 < result["best_validation_loss"] < 10


def test_a_pause_is_told_as_json_and_in_words(train: Callable, resume: Callable):
    result = json.loads(train(None, "--stop-at 1 --json").out)
    assert (result["finished"], result["step"]) == (False, 1)
    assert result["best_validation_loss"] is None
    assert "paused at step 2; go on with: --resume" in resume("--max-steps 5 --stop-at 2").out


def test_notes_go_to_stderr_and_the_result_to_stdout(train: Callable, tmp_path: Path):
    outcome = train()
    assert outcome.out.startswith(f"{tmp_path / 'out'}: validation loss ")
    assert len(outcome.out.splitlines()) == 1
    assert "corpus.txt: 1,944 training and 216 validation tokens, 16 distinct" in outcome.err


def test_without_data_the_text_is_cpythons_own(
    edgegpt: Callable, resume: Callable, tiny_settings: list[str], tmp_path: Path
):
    out = tmp_path / "out"
    outcome = edgegpt("train", "--out", out, *tiny_settings, "--max-steps", 2, "--stop-at", 1)
    assert outcome.code == 0, outcome.err
    assert "pydoc_data.topics: " in outcome.err
    assert resume().code == 0


def test_an_existing_checkpoint_is_refused_and_left_alone(train: Callable, tmp_path: Path):
    train()
    before = contents(tmp_path / "out")
    outcome = train(None, "--seed 5")
    assert outcome.code == 1
    assert "--resume" in outcome.err
    assert "--force" in outcome.err
    assert contents(tmp_path / "out") == before


def test_force_replaces_an_earlier_checkpoint(train: Callable, tmp_path: Path):
    train()
    before = contents(tmp_path / "out")
    assert train(None, "--seed 5 --force").code == 0
    after = contents(tmp_path / "out")
    assert after["model.safetensors"] != before["model.safetensors"]
    assert len(after["metrics.jsonl"].splitlines()) == len(before["metrics.jsonl"].splitlines())


def test_force_leaves_nothing_of_the_earlier_checkpoint(train: Callable, tmp_path: Path):
    train()
    assert train(None, "--force --stop-at 1").code == 0
    assert not (tmp_path / "out" / "model.safetensors").exists()  # there was no evaluation yet


def test_an_empty_folder_is_taken(train: Callable, tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert train().code == 0


@pytest.mark.parametrize("force", ["", "--force"])
def test_a_folder_that_is_no_checkpoint_is_never_deleted(
    train: Callable, tmp_path: Path, force: str
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    outcome = train(None, force)
    assert outcome.code == 1
    assert "is not a checkpoint" in outcome.err
    assert contents(tmp_path / "out") == {"thesis.txt": b"years of work"}


def test_a_folder_with_somebody_elses_config_is_never_deleted(train: Callable, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    outcome = train(None, "--force")
    assert (tmp_path / "out" / "thesis.txt").exists()
    assert outcome.code == 1
    assert "is not a checkpoint" in outcome.err


@pytest.mark.parametrize(
    "mistake", ["--data nowhere.txt", "--n-head 3", "--batch-size 0", "--preset gpt-5"]
)
def test_force_deletes_nothing_when_the_new_run_cannot_start(
    train: Callable, tmp_path: Path, mistake: str
):
    train()
    before = contents(tmp_path / "out")
    assert train(None, f"--force {mistake}").code == 1
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("force", ["", "--force"])
def test_a_file_in_place_of_the_folder_is_refused(train: Callable, tmp_path: Path, force: str):
    (tmp_path / "out").write_text("mine")
    outcome = train(None, force)
    assert outcome.code == 1
    assert "is not a checkpoint" in outcome.err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_destination_that_cannot_be_made_is_refused_in_one_sentence(
    train: Callable, tmp_path: Path
):
    (tmp_path / "file").touch()
    outcome = train(tmp_path / "file" / "out")
    assert outcome.code == 1
    assert str(tmp_path / "file") in outcome.err


def test_force_on_a_link_to_a_checkpoint_raises_nothing_raw(train: Callable, tmp_path: Path):
    train(tmp_path / "real")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    outcome = train(None, "--force")  # may replace the link's target or refuse
    assert outcome.code in (0, 1)
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("samples", [0, 4])
def test_a_run_whose_loss_is_no_number_ends_with_an_error_about_that(train: Callable, samples: int):
    outcome = train(None, f"--max-steps 4 --learning-rate 1e30 --sample-tokens {samples}")
    assert outcome.code == 1
    assert "error: " in outcome.err
    told = outcome.err.partition("error: ")[2]
    assert "loss" in told
    assert "edgegpt verify" not in told  # there is no bundle yet


def test_a_run_can_begin_with_another_one_s_weights(train: Callable, tmp_path: Path):
    train(tmp_path / "first", "--norm rmsnorm --dropout 0.1")
    options = f"--init-from {tmp_path / 'first'} --dropout 0.0 --learning-rate 0"
    outcome = train(tmp_path / "second", f"{options} --min-learning-rate 0")
    assert outcome.code == 0, outcome.err
    first, second = tmp_path / "first", tmp_path / "second"
    assert contents(first)["model.safetensors"] == contents(second)["model.safetensors"]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert configs[0]["model"] | {"dropout": 0.0} == configs[1]["model"]


def test_weights_can_be_taken_from_the_folder_that_is_replaced(train: Callable, tmp_path: Path):
    train()
    before = contents(tmp_path / "out")["model.safetensors"]
    options = "--learning-rate 0 --min-learning-rate 0"
    outcome = train(None, f"--init-from {tmp_path / 'out'} --force {options}")
    assert outcome.code == 0, outcome.err
    assert contents(tmp_path / "out")["model.safetensors"] == before


def test_weights_of_another_model_or_vocabulary_are_refused(
    train: Callable, edgegpt: Callable, tmp_path: Path, tiny_settings: list[str]
):
    train()
    outcome = train(tmp_path / "next", f"--init-from {tmp_path / 'out'} --n-ff 8")
    assert outcome.code == 1
    assert "feed_forward" in outcome.err
    assert not (tmp_path / "next").exists()
    (tmp_path / "other.txt").write_text("a different alphabet 0123456789\n" * 60)
    outcome = edgegpt(
        *("train", "--data", tmp_path / "other.txt", "--out", tmp_path / "next", *tiny_settings),
        *("--init-from", tmp_path / "out"),
    )
    assert outcome.code == 1
    assert "vocabulary" in outcome.err
    assert not (tmp_path / "next").exists()
    outcome = train(tmp_path / "next", f"--init-from {tmp_path / 'nowhere'}")
    assert outcome.code == 1
    assert "nowhere" in outcome.err
