"""examples/web without its packages: the same random numbers, choices and texts as in Python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import TEXT
from web import ask, in_javascript, needs_node

from edgegpt.errors import EdgeGPTError, NumericalError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.generation.philox import gumbel, philox4x32
from edgegpt.runtime.generation.rows import series_of
from edgegpt.runtime.generation.sampling import Sampling, choose
from edgegpt.runtime.language_model import LanguageModel

pytestmark = needs_node

WORD = 2**32
LOOSE = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def values(results: list[dict[str, Any]]) -> list[Any]:
    assert all("value" in one for one in results), results
    return [one["value"] for one in results]


def test_the_random_words_are_those_of_python() -> None:
    rng = np.random.default_rng(0)
    counters, keys = (rng.integers(0, WORD, (100, width)).tolist() for width in (4, 2))
    counters += [[0] * 4, [WORD - 1] * 4]
    keys += [[0] * 2, [WORD - 1] * 2]
    jobs = [
        {"job": "philox", "counter": counter, "key": key}
        for counter, key in zip(counters, keys, strict=True)
    ]
    wanted = [
        philox4x32(np.array(counter, dtype=np.uint64)[:, None], (key[0], key[1]))[:, 0].tolist()
        for counter, key in zip(counters, keys, strict=True)
    ]
    assert values(ask(jobs)) == wanted


def test_the_noise_of_a_token_is_that_of_python() -> None:
    rng = np.random.default_rng(1)
    cases = [
        {
            "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
            "series": int(rng.integers(0, 2**64, dtype=np.uint64)),
            "step": int(rng.integers(0, 5000)),
            "id": int(rng.integers(0, 150_000)),
        }
        for _ in range(300)
    ]
    asked = [
        {"job": "gumbel"} | case | {key: str(case[key]) for key in ("seed", "series")}
        for case in cases
    ]
    wanted = [
        float(gumbel(case["seed"], case["series"], case["step"], np.array([case["id"]]))[0])
        for case in cases
    ]
    np.testing.assert_allclose(values(ask(asked)), wanted, rtol=1e-14, atol=1e-14)


def test_the_series_of_a_prompt_is_that_of_python() -> None:
    prompts = [list(range(length)) for length in (1, 6, 7, 8, 63, 500)] + [[151_935, 0]]
    found = values(ask([{"job": "series", "ids": ids} for ids in prompts]))
    assert [low + WORD * high for low, high in found] == [series_of(ids) for ids in prompts]


def random_choice(rng: np.random.Generator) -> dict[str, Any]:
    """Return a case of one choice; few logits are equal, some are -inf."""
    size = int(rng.choice([3, 65, 400, 3000], p=[0.2, 0.5, 0.2, 0.1]))
    logits = rng.normal(0, 3, size).astype(np.float32)
    if rng.random() < 0.3:
        logits = np.round(logits)
    if rng.random() < 0.3:
        logits[rng.random(size) < 0.4] = -np.inf
        logits[rng.integers(size)] = 1.0
    options = {
        "temperature": [0.0, 0.3, 0.8, 1.0, 2.5, 1e-320],
        "top_k": [0, 1, 5, 40, 10_000],
        "top_p": [1.0, 0.95, 0.5, 1e-6],
        "min_p": [0.0, 0.05, 0.5, 1.0],
        "repetition_penalty": [1.0, 1.3, 0.7],
    }
    return {
        "logits": logits,
        "sampling": {name: rng.choice(choices).item() for name, choices in options.items()},
        "history": rng.integers(0, size, int(rng.integers(0, 30))).tolist(),
        "draw": {
            "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
            "series": int(rng.integers(0, 2**64, dtype=np.uint64)),
            "step": int(rng.integers(0, 500)),
        },
        "named": size if rng.random() < 0.7 else max(1, size - 2),
    }


def test_a_choice_is_that_of_python_for_all_settings() -> None:
    rng = np.random.default_rng(2)
    cases = [random_choice(rng) for _ in range(1500)]
    cases = [case for case in cases if np.isfinite(case["logits"][: case["named"]]).any()]
    jobs = [
        case
        | {
            "job": "choose",
            "logits": [str(x) if np.isinf(x) else float(x) for x in case["logits"]],
            "sampling": in_javascript(case["sampling"]),
            "draw": case["draw"] | {key: str(case["draw"][key]) for key in ("seed", "series")},
        }
        for case in cases
    ]
    jobs = json.loads(json.dumps(jobs).replace('"-inf"', '"-Infinity"'))
    wanted = [
        choose(
            case["logits"],
            Sampling(**case["sampling"]),
            case["history"],
            named=case["named"],
            **case["draw"],
        ).token
        for case in cases
    ]
    assert values(ask(jobs)) == wanted
    assert len(set(wanted)) > 300


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity"])
def test_logits_that_are_no_numbers_are_an_error(bad: str) -> None:
    draw = {"seed": "1", "series": "1", "step": 7}
    logits = [bad, bad if bad == "-Infinity" else 1.0]
    job = {"job": "choose", "logits": logits, "sampling": {}, "history": [], "draw": draw}
    (found,) = ask([job])
    own = np.array([float(one) for one in logits], dtype=np.float32)
    with pytest.raises(NumericalError) as error:
        choose(own, Sampling(), [], seed=1, series=1, step=7)
    assert (found["error"], found["message"]) == ("NumericalError", str(error.value))


@pytest.fixture(scope="module")
def web_bundle(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    out = tmp_path_factory.mktemp("web") / "bundle"
    export_bundle(small_checkpoint, out, settings=ExportSettings(target="web"))
    return out


def network(vocab_size: int, ids: Any) -> Any:
    """Return logits that depend on all ids and their places, as web_driver.mjs's engine does."""
    key = (sum((token + 1) * (place + 1) for place, token in enumerate(ids)), len(ids))
    counter = np.zeros((4, vocab_size), dtype=np.uint64)
    counter[0] = np.arange(vocab_size)
    return (philox4x32(counter, key)[0] / WORD * 6).astype(np.float32)


def random_call(rng: np.random.Generator, characters: str) -> tuple[str, dict[str, Any]]:
    """Return a prompt and settings; many texts are longer than the context of 32."""
    prompt = "".join(rng.choice(list(characters), int(rng.integers(1, 50))))
    settings: dict[str, Any] = {
        "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
        "max_new_tokens": int(rng.choice([0, 1, 20, 90])),
        "temperature": float(rng.choice([0.0, 0.7, 1.3])),
    }
    for name, choices in (("top_k", [3, 10]), ("top_p", [0.9]), ("repetition_penalty", [1.2])):
        if rng.random() < 0.4:
            settings[name] = rng.choice(choices).item()
    if rng.random() < 0.5:
        settings["stop"] = ["".join(rng.choice(list(characters), 2)), characters[5], "qu"]
    if rng.random() < 0.3:
        settings["end_ids"] = [3, 30]
    if rng.random() < 0.4:
        settings["overflow"] = str(rng.choice(["slide", "stop"]))
    return prompt, settings


def in_python(model: LanguageModel, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what Python makes of a call, in the form of the driver's answer."""
    try:
        result = model.generate(prompt, **settings)
    except EdgeGPTError as error:
        return {"error": type(error).__name__, "message": str(error)}
    found = {
        "pieces": list(model.stream(prompt, **settings)),
        "text": result.text,
        "tokenIds": result.token_ids,
        "finishReason": result.finish_reason,
    }
    return {"value": found}


def test_texts_end_and_slide_as_in_python(web_bundle: Path) -> None:
    bundle, rng = Bundle.open(web_bundle), np.random.default_rng(3)
    size = bundle.manifest.model_info.vocab_size
    model = LanguageModel(bundle, NullEngine(lambda ids: network(size, ids), size))
    calls = [random_call(rng, "".join(sorted(set(TEXT)))) for _ in range(300)]
    facts = {"vocabSize": size, "context": 32, "position": "learned", "usage": None}
    tokenizer = (web_bundle / "tokenizer.json").read_text()
    jobs = [
        {"job": "write", "tokenizer": tokenizer, "facts": facts, "prompt": prompt}
        | {"options": in_javascript(settings)}
        for prompt, settings in calls
    ]
    reasons = set()
    for (prompt, settings), found in zip(calls, ask(jobs), strict=True):
        wanted = in_python(model, prompt, settings)
        assert found == wanted
        reasons.add(wanted.get("error") or wanted["value"]["finishReason"])
    assert reasons == {"length", "stop", "eos", "context", "InvalidInputError"}


def writing(web_bundle: Path, **job: Any) -> dict[str, Any]:
    """Return what the driver makes of a job that writes 60 tokens after "The wind"."""
    facts = {"vocabSize": len(set(TEXT)), "context": 32, "position": "learned", "usage": None}
    tokenizer = (web_bundle / "tokenizer.json").read_text()
    usual = {"prompt": "The wind", "options": {"maxNewTokens": 60}, "facts": facts}
    (found,) = ask([{"job": "write", "tokenizer": tokenizer} | usual | job])
    return found


@pytest.mark.parametrize("abort", [False, True])
def test_a_text_that_is_broken_off_has_a_result(web_bundle: Path, abort: bool) -> None:
    whole = writing(web_bundle)["value"]
    found = writing(web_bundle, breakAfter=5, abort=abort)["value"]
    assert found["finishReason"] == "closed"
    assert found["tokenIds"] == whole["tokenIds"][:5]
    assert found["text"] == whole["text"][:5]


def test_the_bundle_s_recommendations_hold_unless_the_caller_says_otherwise(
    web_bundle: Path,
) -> None:
    facts = {"vocabSize": len(set(TEXT)), "context": 32, "position": "rope"}
    sampling = LOOSE | {"temperature": 1.0, "top_k": 5}
    search = {"max_new_tokens": 30}
    usage = {"end_ids": [7], "start_ids": [], "sampling": sampling, "search": search}
    told = {"maxNewTokens": 30, "temperature": 1.0, "topK": 5, "endIds": 7, "seed": "4"}
    plain = writing(web_bundle, facts=facts | {"usage": usage}, options={"seed": "4"})
    assert plain == writing(web_bundle, facts=facts | {"usage": None}, options=told)
    freed = {"seed": "4", "ignoreEos": True, "temperature": 0, "maxNewTokens": 9}
    other = writing(web_bundle, facts=facts | {"usage": usage}, options=freed)["value"]
    assert len(other["tokenIds"]) == 9
    long = writing(web_bundle, facts=facts | {"usage": None})["value"]
    assert long["finishReason"] == "context"  # only learned positions slide


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"prompt": "Ünder"}, 'the character "Ü" (U+00DC) at position 0 of the text is not in'),
        ({"options": {"temperature": -1}}, "temperature is -1; it must be a number 0 or more"),
        ({"options": {"topP": 0}}, "topP is 0; it must be a number above 0 and at most 1"),
        ({"options": {"topK": 1.5}}, "topK is 1.5; it must be a whole number of 0 (off) or more"),
        ({"options": {"max_new_tokens": 3}}, "there is no option max_new_tokens; there are: max"),
        ({"options": {"maxNewTokens": -3}}, "maxNewTokens is -3; it must be a whole number of"),
        ({"options": {"overflow": "wrap"}}, 'overflow is wrap; it must be "slide" or "stop"'),
        ({"options": {"seed": str(2**64)}}, "the seed 18446744073709551616 is no whole number"),
        ({"options": {"stop": ""}}, "stop must be a text or several, and none of them empty"),
        ({"options": {"endIds": [99]}}, "the token id 99 is not in the vocabulary of"),
        (
            {"prompt": "a" * 40, "options": {"overflow": "stop"}},
            "the prompt has 40 tokens and the context 32; shorten it, or go on with "
            'its last part: overflow="slide"',
        ),
    ],
)
def test_what_is_impossible_is_refused_in_a_sentence(
    web_bundle: Path, job: dict[str, Any], message: str
) -> None:
    found = writing(web_bundle, **job)
    assert found["error"] == "InvalidInputError"
    assert found["message"].startswith(message)


def changed(manifest: dict[str, Any], *path: Any, to: Any) -> str:
    """Return the text of a manifest in which one value is another one."""
    copy = json.loads(json.dumps(manifest))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(copy)


def test_manifests_are_read_or_refused_in_a_sentence(web_bundle: Path, small_bundle: Path) -> None:
    text = (small_bundle / "edgegpt.json").read_text()
    whole = json.loads(text)
    inputs = whole["graphs"][0]["inputs"]
    cache = next(place for place, port in enumerate(inputs) if port["role"] == "cache")
    usage = {"start_ids": [], "end_ids": [], "sampling": LOOSE, "search": {"forced_bos": 0}}
    cases = {
        (web_bundle / "edgegpt.json").read_text(): "decoder.ort",
        text: "decoder.ort",
        "<html>": "edgegpt.json is not JSON: ",
        "[]": "edgegpt.json is not a JSON object",
        changed(whole, "format_version", to=4): "edgegpt.json has format version 4; this page",
        changed(whole, "model", to={"encoder": {}, "decoder": {}}): "this bundle is an encoder-dec",
        changed(
            whole, "model", "block_size", to="1"
        ): "edgegpt.json: model: block_size is no whole",
        changed(whole, "files", "//other/x", to={"size": 1}): 'edgegpt.json names the file "//oth',
        changed(whole, "weights_file", to="x"): "edgegpt.json uses x, which its table of files",
        changed(whole, "graphs", to=[]): "edgegpt.json lists no graph",
        changed(whole, "graphs", 0, "inputs", 0, "role", to="x"): "edgegpt.json: decoder.ort: ",
        changed(whole, "graphs", 0, "inputs", to=[None]): "edgegpt.json: decoder.ort has a port",
        changed(
            whole, "graphs", 0, "inputs", 0, "shape", to=[1e30]
        ): "edgegpt.json: decoder.ort: ids has the size 1e+30",
        changed(
            whole, "graphs", 0, "inputs", cache, "present", to="x"
        ): f"edgegpt.json: decoder.ort: {inputs[cache]['name']} is a cache without an output",
        changed(whole, "usage", to=usage): "the source of this model asks for forced_bos, which",
        changed(whole, "graphs", 0, "inputs", 0, "dtype", to="bfloat16"): "decoder.ort is in bfloa",
    }
    jobs = [{"job": "manifest", "text": one, "backend": "wasm"} for one in cases]
    for found, wanted in zip(ask(jobs), cases.values(), strict=True):
        assert (found.get("value") or found["message"]).startswith(wanted)
        assert found.get("error", "BundleError") == "BundleError"


def test_the_graph_is_the_fast_one_or_the_one_that_is_named(small_bundle: Path) -> None:
    text = (small_bundle / "edgegpt.json").read_text()
    quantised = text.replace('"decoder.legacy"', '"prefill.ort"')
    asked = [(quantised, "wasm", None), (quantised, "webgpu", None), (text, "wasm", "decoder.x")]
    jobs = [
        {"job": "manifest", "text": one, "backend": backend} | ({"name": name} if name else {})
        for one, backend, name in asked
    ]
    wasm, webgpu, unknown = ask(jobs)
    assert (wasm, webgpu) == ({"value": "prefill.ort"}, {"value": "decoder.ort"})
    assert unknown["message"].startswith('the bundle has no graph "decoder.x"; it has: decoder.ort')
