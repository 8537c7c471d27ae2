"""What a manifest notes about quantisation, use and origin is read back, or refused by place."""

import dataclasses
import json

import pytest
from manifests import put, refusal, sealed

from edgegpt.runtime.bundle.manifest import MANIFEST_NAME, Manifest, Quality, Quantization
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Defaults, Usage

USAGE = Usage(
    start_ids=(1,),
    end_ids=(2, 33),
    pad_id=0,
    sampling=Defaults(temperature=0.6, top_k=20, top_p=1, min_p=0.0, repetition_penalty=1.05),
    special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
)
SOURCE = Source("llama", "meta-llama/Llama-3.2-1B", "llama3.2")
QUANTIZATION = Quantization(
    method="rtn",
    bits=4,
    block=32,
    finer=["blocks.0.attention.qkv.weight"],
    finer_block=16,
    kept=["head.weight"],
    quality=Quality(1e-3, 0.5, 2.0, 7),
    reference_perplexity=1.5,
    max_kl=0.1,
)


def test_what_quantisation_cost_is_read_back(manifest):
    quantised = dataclasses.replace(manifest, precision="int4", quantization=QUANTIZATION)
    found = Manifest.parse(quantised.to_json()).quantization
    assert found == QUANTIZATION
    assert found.bits_of("blocks.0.attention.qkv.weight") == 8
    assert found.bits_of("blocks.0.attention.proj.weight") == 4


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ((), [], "not a table"),
        (("method",), 1, "method is a whole number"),
        (("method",), "awq", "awq"),
        (("bits",), 8, "bits is 8, which is not int4"),
        (("block",), 0, "block is 0"),
        (("finer",), {}, "finer is"),
        (("finer_block",), -1, "finer_block is -1"),
        (("kept",), [None], "has None where a string belongs"),
        (("quality",), None, "quality is None"),
        (("quality", "kl"), "small", "kl is a string"),
        (("quality", "tokens"), 0, "tokens is 0"),
        (("max_kl",), True, "max_kl is True"),
    ],
)
def test_a_wrong_value_in_what_quantisation_cost_is_refused(manifest, path, value, named):
    quantised = dataclasses.replace(manifest, precision="int4", quantization=QUANTIZATION)
    document = json.loads(quantised.to_json())
    put(document, ("quantization", *path), value)
    message = refusal(sealed(document))
    assert "quantization" in message
    assert named in message


def test_use_and_origin_are_read_back(manifest):
    told = dataclasses.replace(manifest, usage=USAGE, source=SOURCE)
    read = Manifest.parse(told.to_json())
    assert (read.usage, read.source) == (USAGE, SOURCE)
    silent = dataclasses.replace(manifest, usage=Usage(), source=Source("llama"))
    read = Manifest.parse(silent.to_json())
    assert (read.usage, read.source) == (Usage(), Source("llama", None, None))


@pytest.mark.parametrize("key", ["usage", "source"])
@pytest.mark.parametrize("value", [[], 3, "x", True, {}])
def test_use_or_origin_of_another_kind_is_refused(manifest, key, value):
    document = json.loads(manifest.to_json())
    put(document, (key,), value)
    assert f"{MANIFEST_NAME}: {key} " in refusal(sealed(document))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("start_ids",), 1, "usage: start_ids is a whole number, not a list"),
        (("start_ids",), [34], "usage names the id 34, which is not in the vocabulary of 34"),
        (("end_ids",), [1, -1], "usage: end_ids has -1 where a whole number from 0"),
        (("end_ids",), [True], "usage: end_ids has True where a whole number"),
        (("end_ids",), [1.0], "usage: end_ids has 1.0 where a whole number"),
        (("end_ids",), [1] * 257, "usage: end_ids has 257 ids; there may be 256"),
        (("pad_id",), 34, "usage names the id 34"),
        (("pad_id",), "0", "usage: pad_id has a string where a whole number"),
        (("pads",), 3, "usage has the unknown key 'pads'"),
        (("sampling",), None, "usage: sampling is None, not a table"),
        (("sampling", "temperature"), -0.1, "temperature is -0.1; it must be a number 0 or more"),
        (("sampling", "temperature"), True, "temperature is True; it must be a number 0 or more"),
        (("sampling", "temperature"), float("nan"), "temperature is nan; it must be a number"),
        (("sampling", "temperature"), 10**400, "temperature is 1000"),
        (("search", "length_penalty"), 33, "length_penalty is 33; it must be a number"),
        (("search", "length_penalty"), -1e3, "is -1000.0; it must be a number from -32 to 32"),
        (("search", "length_penalty"), float("nan"), "is nan; it must be a number from -32 to 32"),
        (("sampling", "top_p"), 0, "sampling: top_p is 0; it must be a number above 0 and at most"),
        (("sampling", "top_p"), 1.1, "top_p is 1.1; it must be a number above 0 and at most 1"),
        (("sampling", "min_p"), 2, "min_p is 2; it must be a number from 0 to 1"),
        (("sampling", "repetition_penalty"), 0.0, "repetition_penalty is 0.0; it must be a number"),
        (("sampling", "top_k"), -1, "usage: sampling: top_k has -1 where a whole number from 0"),
        (("sampling", "top_k"), 5.0, "usage: sampling: top_k has 5.0 where a whole number from 0"),
        (
            ("source",),
            {"prefix_ids": [], "suffix_ids": [], "languages": {}},
            "usage tells of sources; the model has no encoder",
        ),
        (("search", "forced_bos"), 34, "usage names the id 34, which is not in the vocabulary"),
        (("search", "bad_words"), [[1, 34]], "usage names the id 34, which is not in the vocabul"),
        (("sampling", "beams"), 4, "usage: sampling has the unknown key 'beams'"),
        (("special_tokens",), [], "usage: special_tokens is a list, not a table"),
        (("special_tokens", "messages"), "x", "has the name 'messages', which is not like bos_tok"),
        (("special_tokens", "eos_token"), 2, "eos_token has a whole number where a string belongs"),
        (("special_tokens", "eos_token"), "x" * 201, "eos_token is longer than 200 characters"),
    ],
)
def test_a_wrong_value_about_use_is_refused_with_its_place(manifest, path, value, named):
    document = json.loads(dataclasses.replace(manifest, usage=USAGE).to_json())
    put(document, ("usage", *path), value)
    assert named in refusal(sealed(document))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Defaults)])
def test_a_missing_setting_of_sampling_is_named(manifest, name):
    document = json.loads(dataclasses.replace(manifest, usage=USAGE).to_json())
    del document["usage"]["sampling"][name]
    assert refusal(sealed(document)) == f"{MANIFEST_NAME}: usage: sampling lacks {name!r}"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("family", None, "source: family has None where a string belongs"),
        ("family", "", "source: family is ''; it must be one line of 1 to 200 printable"),
        ("name", 3, "source: name has a whole number where a string belongs"),
        ("license", "\x1b[2J", "source: license is '\\x1b[2J'; it must be one line"),
        ("name", "x" * 201, "it must be one line of 1 to 200 printable characters"),
        ("colour", "red", "source has the unknown key 'colour'"),
    ],
)
def test_a_wrong_value_about_the_origin_is_refused_with_its_place(manifest, key, value, named):
    document = json.loads(dataclasses.replace(manifest, source=SOURCE).to_json())
    put(document, ("source", key), value)
    assert named in refusal(sealed(document))
