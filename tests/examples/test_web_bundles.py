"""examples/web with its packages, in node: bundles in wasm write what PyTorch and Python write."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from small_models import random_model, small_config, write_checkpoint
from tokenizer_kinds import bpe_without_unknown, byte_tokenizer, char_tokenizer
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from web import NODE, WEB, ask, in_javascript, module_with_packages, needs_node

import edgegpt
from edgegpt.errors import InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.tokenizer import Tokenizer

MODEL = Path(__file__).parents[2] / "models" / "shakespeare-char"
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.8},
    {"temperature": 1.0, "top_k": 10},
    {"temperature": 0.9, "top_p": 0.9},
    {"temperature": 1.2, "min_p": 0.05},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return module_with_packages(tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="module")
def shakespeare(tmp_path_factory: pytest.TempPathFactory, module: Path) -> Path:
    out = tmp_path_factory.mktemp("shipped") / "bundle"
    assert export_bundle(MODEL, out, settings=ExportSettings(target="web")).passed
    return out


def same_or_explained(found: list[int], result: Any) -> bool:
    """Demand equal ids up to the first near tie; return whether all are equal."""
    if found != result.token_ids:
        pairs = enumerate(zip(found, result.token_ids, strict=True))
        first = next(place for place, (one, other) in pairs if one != other)
        assert result.first_near_tie is not None
        assert result.first_near_tie <= first
    return found == result.token_ids


def test_greedy_tokens_are_the_golden_ones(module: Path, shakespeare: Path) -> None:
    golden = Golden.load(shakespeare / "golden.safetensors")
    rows = list(zip(golden.ragged, golden.continuations, strict=True))
    jobs = [
        {"job": "generate", "bundle": str(shakespeare), "prompt": prompt.ids.tolist()}
        | {"settings": {"maxNewTokens": len(added.ids)}}
        for prompt, added in rows
    ]
    for (_, added), found in zip(rows, ask(jobs, module), strict=True):
        assert found["value"]["tokenIds"] == added.ids.tolist()
    assert sum(len(added.ids) for _, added in rows) == 256


def test_the_same_seed_gives_the_same_text_as_in_python(module: Path, shakespeare: Path) -> None:
    calls = [
        settings | {"seed": seed, "max_new_tokens": 40}
        for seed, settings in enumerate(SETTINGS * 3, start=2**63)
    ]
    prompt = "JULIET:\nO "
    jobs = [
        {"job": "generate", "bundle": str(shakespeare), "prompt": prompt}
        | {"settings": in_javascript(settings)}
        for settings in calls
    ]
    with edgegpt.load(shakespeare, threads=1) as model:
        results = [model.generate(prompt, **settings) for settings in calls]
    texts = [found["value"] for found in ask(jobs, module)]
    same = [
        same_or_explained(text["tokenIds"], result)
        for text, result in zip(texts, results, strict=True)
    ]
    assert sum(same) >= len(same) - 1
    assert len({text["text"] for text in texts}) == len(texts)
    for text, equal, result in zip(texts, same, results, strict=True):
        assert text["text"] == "".join(text["pieces"])
        assert (text["text"] == result.text) is equal


def test_a_text_that_outgrows_the_context_slides_as_in_python(
    module: Path, shakespeare: Path
) -> None:
    settings = {"temperature": 0.8, "seed": 5, "max_new_tokens": 30}
    with edgegpt.load(shakespeare, threads=1) as model:
        prompt = model.generate("ROMEO:", max_new_tokens=234).text  # of a context of 256
        result = model.generate(prompt, **settings)
    job = {"job": "generate", "bundle": str(shakespeare), "prompt": prompt}
    (found,) = ask([job | {"settings": in_javascript(settings)}], module)
    assert same_or_explained(found["value"]["tokenIds"], result)


def test_texts_that_are_written_side_by_side_do_not_disturb_each_other(
    module: Path, small_bundle: Path
) -> None:
    every = [{"maxNewTokens": 40, "temperature": 0.8, "seed": str(seed)} for seed in range(3)]
    usual = {"bundle": str(small_bundle), "prompt": "The wind"}
    alone = [{"job": "generate", "settings": settings} | usual for settings in every]
    together, *others = ask([{"job": "together", "all": every} | usual, *alone], module)
    assert together["value"] == [other["value"] for other in others]


INT8 = {"char": {}, "tied": {"tie_embeddings": True, "head_bias": False, "position": "rope"}}


@pytest.mark.parametrize("name", INT8)
def test_int8_for_the_web_writes_what_python_writes(
    module: Path, tmp_path: Path, name: str
) -> None:
    write_checkpoint(tmp_path / "ckpt", random_model(small_config(**INT8[name])))
    settings = ExportSettings(target="web", method="rtn", max_kl=1e9)
    bundle = tmp_path / "bundle"
    export_bundle(tmp_path / "ckpt", bundle, precision="int8", settings=settings)
    calls = [{"temperature": 0.9, "seed": seed, "max_new_tokens": 20} for seed in range(20)]
    jobs = [
        {"job": "generate", "bundle": str(bundle), "prompt": "The wind"}
        | {"settings": in_javascript(settings)}
        for settings in calls
    ]
    with edgegpt.load(bundle, threads=1) as model:
        results = [model.generate("The wind", **settings) for settings in calls]
    found = ask([*jobs, {"job": "about", "bundle": str(bundle)}], module)
    about = found.pop()["value"]
    assert (about["graph"], about["backend"]) == ("decoder.ort", "wasm")
    same = [
        same_or_explained(one["value"]["tokenIds"], result)
        for one, result in zip(found, results, strict=True)
    ]
    assert sum(same) > 0.7 * len(same)


def kinds() -> dict[str, Backend]:
    """Return tokenizers with and without an unknown token."""
    words = Backend(models.WordLevel({"a": 0, "b": 1, "ab": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return {
        "bytes": byte_tokenizer().backend,
        "drops": bpe_without_unknown(),
        "words": words,
        "characters": char_tokenizer("ab <unk>").backend,
    }


TEXTS = ["ab", "ab a", "xa", "a <unk>", "ab\n", "grüße 🙂 日本, e\u0301", "a 日", "🙂"]


@pytest.mark.parametrize("kind", kinds())
def test_ids_are_python_s_and_what_has_none_is_refused(module: Path, kind: str) -> None:
    backend = kinds()[kind]
    tokenizer, rows = Tokenizer(backend.to_str()), backend.get_vocab_size()
    usual = {"job": "encode", "tokenizer": backend.to_str(), "rows": rows}
    # The package cuts words at every character that is not ASCII, unlike the one in Rust.
    texts = [text for text in TEXTS if text.isascii()] if kind == "words" else TEXTS
    kinds_of_answer = set()
    for text, found in zip(
        texts, ask([usual | {"text": text} for text in texts], module), strict=True
    ):
        try:
            wanted: Any = tokenizer.encode(text)
        except InvalidInputError as error:
            wanted = re.sub("'(.*?)'", r'"\1"', str(error)).replace('model"s', "model's")
        kinds_of_answer.add(type(wanted))
        assert found.get("value", found.get("message")) == wanted, text
    assert kinds_of_answer == ({list} if kind == "bytes" else {list, str})


def test_text_is_told_in_whole_characters_up_to_a_stop_string_as_in_python(module: Path) -> None:
    tokenizer, rng = byte_tokenizer(), np.random.default_rng(0)
    text = "grüße 🙂 日本 👩\u200d🚀 e\u0301 hello , do n't . it 's ! a hello"
    known = tokenizer.encode(text)
    jobs, wanted = [], []
    for _ in range(200):
        cut = rng.integers(0, len(known))
        ids = known[cut:] if rng.random() < 0.5 else rng.integers(0, 256, 12).tolist()
        stop = [str(rng.choice(["hello", "\u0301", "本 ", "zz"]))]
        jobs.append({"before": known[:cut], "ids": ids, "stop": stop})
        detokenizer, pieces = Detokenizer(tokenizer, stop, known[:cut]), []
        for token in ids:
            pieces.append(detokenizer.push(token))
            if detokenizer.stopped:
                break
        wanted.append([*pieces, detokenizer.finish()])
    usual = {"job": "detokenize", "tokenizer": tokenizer.backend.to_str(), "rows": 300}
    assert [one["value"] for one in ask([usual | job for job in jobs], module)] == wanted


@pytest.fixture
def served(tmp_path: Path, module: Path, small_bundle: Path) -> Iterator[str]:
    """The address of a page that is served, with a bundle in the folder `site/bundle`."""
    site = tmp_path / "site"
    shutil.copytree(WEB, site, ignore=shutil.ignore_patterns("node_modules", "bundle"))
    shutil.copytree(small_bundle, site / "bundle")
    environment = os.environ | {"PORT": "0"}
    command = [str(NODE), str(site / "serve.js")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        # Node gives each address of a name 250 ms, which may be too short.
        yield server.stdout.readline().strip().replace("localhost", "127.0.0.1")
        server.kill()


def test_a_bundle_opens_by_its_address_and_what_is_wrong_with_it_is_a_sentence(
    module: Path, tmp_path: Path, served: str
) -> None:
    folder = tmp_path / "site" / "bundle"

    def of(address: str = f"{served}bundle", **options: Any) -> dict[str, Any]:
        return {"job": "about", "bundle": address, "options": options}

    def message() -> str:
        (answer,) = ask([of()], module)
        return answer["message"]

    jobs = [of(), of(context=8), of(context=33), of(backend="gpu"), of(backend="webgpu")]
    jobs += [of(f"{served}nowhere/"), of(graph="decoder.x"), of("http://127.0.0.1:9/")]
    usual, short, *wrong = ask([*jobs, of("http://[")], module)
    assert (usual["value"]["context"], short["value"]["context"]) == (32, 8)
    assert "this browser offers no WebGPU adapter" in usual["value"]["why"]
    assert wrong[3]["error"] == "BundleError"
    context, backend, adapter, nowhere, graph, refused, address = (
        answer["message"] for answer in wrong
    )
    assert context == "context is 33; the model can see 1 to 32 tokens"
    assert backend == 'no backend "gpu"; there are: auto, wasm, webgpu'
    assert "WebGPU does not run here: " in adapter
    assert nowhere == (
        f"edgegpt.json is missing from the bundle {served}nowhere/ (HTTP 404): `edgegpt export "
        f"SRC --target web --out FOLDER` makes one"
    )
    assert graph.startswith('the bundle has no graph "decoder.x"; it has: ')
    assert "cannot be fetched (" in refused
    assert address == '"http://[" is no address of a bundle: give that of its folder'
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[:-1])
    assert message().endswith(f"the manifest says {len(whole)}: it was cut off or replaced")
    (folder / "weights.safetensors").unlink()
    assert message().startswith("weights.safetensors is missing from the bundle")
    (folder / "weights.safetensors").write_bytes(whole)
    file = folder / "decoder.ort.onnx"
    manifest = (folder / "edgegpt.json").read_text()
    (folder / "edgegpt.json").write_text(manifest.replace('"name": "logits"', '"name": "answers"'))
    assert message() == (
        "decoder.ort.onnx does not go with edgegpt.json: answers is in one of them only"
    )
    (folder / "edgegpt.json").write_text(manifest)
    file.write_bytes(bytes(file.stat().st_size))
    assert message().startswith("ONNX Runtime cannot load decoder.ort.onnx with wasm: ")


def test_the_first_bundle_that_opens_decides_how_many_threads_there_are(
    module: Path, small_bundle: Path
) -> None:
    bad = ("two", 0, -1, 1.5, 5000)
    jobs = [
        {"job": "about", "bundle": str(small_bundle), "options": options}
        for options in (
            *({"threads": threads} for threads in bad),
            {"threads": 2},
            {"threads": 1},
            {"threads": 2, "context": 8},
        )
    ]
    *wrong, two, one, usual = ask(jobs, module)
    for threads, refused in zip(bad, wrong, strict=True):
        assert refused["error"] == "InvalidInputError"
        assert refused["message"].startswith(f"threads is {threads}; it must be a whole number")
    assert (two["value"]["threads"], usual["value"]["threads"]) == (2, 2)
    assert one["error"] == "EngineError"
    assert one["message"].startswith("threads is 1, but ONNX Runtime runs with 2 already: ")


@needs_node
def test_without_the_packages_the_error_tells_what_to_run(
    tmp_path: Path, small_bundle: Path
) -> None:
    bare = tmp_path / "web"
    shutil.copytree(WEB, bare, ignore=shutil.ignore_patterns("node_modules", "bundle"))
    (found,) = ask([{"job": "about", "bundle": str(small_bundle)}], bare)
    assert found["error"] == "EngineError"
    assert found["message"].endswith("; run npm install")


def test_a_closed_model_writes_nothing(module: Path, small_bundle: Path) -> None:
    (found,) = ask([{"job": "closed", "bundle": str(small_bundle), "prompt": "The"}], module)
    assert found == {"error": "EngineError", "message": "the model was closed"}


def test_the_server_gives_no_file_outside_of_its_folder(tmp_path: Path, served: str) -> None:
    (tmp_path / "secret").write_text("x")
    for path in ("../secret", "..%2fsecret", "%2e%2e/secret", "bundle/../../secret", "%", "/"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(served + path)
    headers = urlopen(served).headers
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
