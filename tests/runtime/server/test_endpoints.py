"""What the endpoints answer, to OpenAI's own client where it can ask."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from http_servers import Served, serving

import edgegpt
from edgegpt import LanguageModel
from edgegpt.runtime.bundle.usage import Defaults, Usage

PROMPT, COUNT = "The wind", 24
WARM = {"temperature": 0.9, "seed": 7}
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}; {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def served(model: LanguageModel) -> Iterator[Served]:
    with serving(model) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


def complete(client: openai.OpenAI, **settings: Any) -> Any:
    own = {"model": "tiny", "prompt": PROMPT, "max_tokens": COUNT, **WARM}
    return client.completions.create(**(own | settings))


def test_a_completion_is_the_text_of_generate(client: openai.OpenAI, model: LanguageModel) -> None:
    found = complete(client)
    own = model.generate(PROMPT, max_new_tokens=COUNT, **WARM)
    assert found.choices[0].text == own.text
    assert found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == COUNT
    assert found.usage.prompt_tokens == len(model.encode_prompt(PROMPT))
    assert (found.model, found.object) == ("tiny", "text_completion")


def test_a_stream_has_the_same_text_and_tells_usage_only_if_asked(client: openai.OpenAI) -> None:
    whole = complete(client).choices[0].text
    events = list(complete(client, stream=True))
    assert "".join(event.choices[0].text for event in events) == whole
    assert [event.choices[0].finish_reason for event in events][-1] == "length"
    assert all(event.usage is None for event in events)
    told = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert (told[-1].choices, told[-1].usage.completion_tokens) == ([], COUNT)


def test_the_first_of_several_choices_is_the_only_one(client: openai.OpenAI) -> None:
    alone, several = complete(client), complete(client, n=3)
    assert [one.index for one in several.choices] == [0, 1, 2]
    assert several.choices[0].text == alone.choices[0].text
    assert len({one.text for one in several.choices}) == 3
    assert several.usage.completion_tokens == 3 * COUNT
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens


def test_prompts_are_texts_or_ids(client: openai.OpenAI, model: LanguageModel) -> None:
    ids = model.encode_prompt(PROMPT)
    text = complete(client).choices[0].text
    assert complete(client, prompt=ids).choices[0].text == text
    assert [one.text for one in complete(client, prompt=[PROMPT, PROMPT]).choices] == [text, text]
    assert [one.text for one in complete(client, prompt=[ids]).choices] == [text]


def test_logprobs_are_the_models_own(client: openai.OpenAI, model: LanguageModel) -> None:
    found = complete(client, logprobs=2, extra_body={"repetition_penalty": 1.5}).choices[0]
    settings = {"max_new_tokens": COUNT, "repetition_penalty": 1.5, **WARM}
    ids = model.generate(PROMPT, **settings).token_ids
    np.testing.assert_allclose(found.logprobs.token_logprobs, model.score(PROMPT, ids), atol=1e-5)
    assert "".join(found.logprobs.tokens) == found.text
    assert found.logprobs.text_offset[:2] == [0, len(found.logprobs.tokens[0])]
    assert all(len(top) == 2 for top in found.logprobs.top_logprobs)
    streamed = list(complete(client, logprobs=0, stream=True))
    assert sum(len(one.choices[0].logprobs.tokens) for one in streamed) == COUNT


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = complete(client).choices[0].text
    stop = whole[5:8]
    found = complete(client, stop=[stop, "never there"]).choices[0]
    assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")
    pieces = [event.choices[0].text for event in complete(client, stop=stop, stream=True)]
    assert "".join(pieces) == found.text


def test_the_prompt_is_echoed(client: openai.OpenAI) -> None:
    text = complete(client).choices[0].text
    assert complete(client, echo=True).choices[0].text == PROMPT + text
    events = complete(client, echo=True, stream=True)
    assert "".join(event.choices[0].text for event in events) == PROMPT + text
    assert complete(client, echo=True, max_tokens=0).choices[0].text == PROMPT


def test_biases_and_penalties_change_the_text(client: openai.OpenAI, model: LanguageModel) -> None:
    only = complete(client, logit_bias={"5": 100}, temperature=0)
    assert only.choices[0].text == model.tokenizer.decode([5] * COUNT)
    never = complete(client, logit_bias={"5": 100}, presence_penalty=2.0, frequency_penalty=2.0)
    assert never.choices[0].text == only.choices[0].text  # 100 is more than 2 + 2 * 24
    greedy = {"temperature": 0, "max_tokens": 60}
    most = max(map(complete(client, **greedy).choices[0].text.count, "abcdefghij klmnoprstuvwy"))
    text = complete(client, frequency_penalty=2.0, **greedy).choices[0].text
    assert max(map(text.count, "abcdefghij klmnoprstuvwy")) < most


def test_models_are_listed(client: openai.OpenAI, served: Served) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError, match="only 'tiny'"):
        complete(client, model="other")


def test_text_becomes_ids_and_ids_text(served: Served, model: LanguageModel) -> None:
    ids = model.tokenizer.encode(PROMPT)
    assert served.ask("/tokenize", {"content": PROMPT})[1] == {"tokens": ids}
    assert served.ask("/detokenize", {"tokens": ids})[1] == {"content": PROMPT}


def test_health_and_metrics_are_told(served: Served, client: openai.OpenAI) -> None:
    assert served.ask("/health")[:2] == (200, {"status": "ok"})
    complete(client)
    status, text, headers = served.ask("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert (status, headers["content-type"][:10]) == (200, "text/plain")
    assert (lines["edgegpt_rows_running"], lines["edgegpt_requests_waiting"]) == ("0", "0")
    assert int(lines['edgegpt_tokens_total{kind="new"}']) >= COUNT
    assert int(lines["edgegpt_time_to_first_token_seconds_count"]) >= 1
    bound = lines['edgegpt_time_to_first_token_seconds_bucket{le="+Inf"}']
    assert bound == lines["edgegpt_time_to_first_token_seconds_count"]
    word = ("running", "active", "busy", "in_flight", "processing")
    named = [name for name in lines if any(one in name for one in word)]
    assert named == ["edgegpt_rows_running"]


@pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")
def test_a_chat_goes_through_the_bundles_template(altered_bundle: Any) -> None:
    folder = altered_bundle(
        usage=Usage(sampling=Defaults(temperature=0.5)),
        files={"chat_template.jinja": TEMPLATE.encode()},
    )
    messages = [{"role": "user", "content": "hay"}]
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
        ask = client.chat.completions.create
        own = model.generate(
            model.apply_chat_template(messages), max_new_tokens=9, temperature=0.5, seed=3
        )
        asked = {"model": "tiny", "messages": messages, "seed": 3}
        found = ask(**asked, max_completion_tokens=9, logprobs=True, top_logprobs=2)
        assert found.choices[0].message.content == own.text
        assert found.choices[0].message.role == "assistant"
        told = found.choices[0].logprobs.content
        assert "".join(one.token for one in told) == own.text
        assert all(len(one.top_logprobs) == 2 for one in told)
        events = list(ask(**asked, max_tokens=9, stream=True))
        assert events[0].choices[0].delta.role == "assistant"
        pieces = [event.choices[0].delta.content or "" for event in events]
        assert "".join(pieces) == own.text
        full = ask(**asked)  # what is left of the context
        assert full.usage.total_tokens == model.context


def test_without_a_template_a_chat_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("changes", "field", "complaint"),
    [
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": []}, "prompt", "a text, token ids, or a list"),
        ({"prompt": [1, "a"]}, "prompt", "a list of token ids"),
        ({"prompt": ""}, None, "the prompt is empty"),
        ({"prompt": [10**6]}, None, "not in the vocabulary"),
        ({"prompt": [1] * 1000}, "prompt", "the prompt has 1,000 tokens, and the context 32"),
        ({"prompt": ["a"] * 200}, "prompt", "up to 128"),
        ({"temperature": 2.5}, "temperature", "a number from 0 to 2"),
        ({"temperature": "hot"}, "temperature", "a number from 0 to 2"),
        ({"temperature": True}, "temperature", "a number from 0 to 2"),
        ({"top_p": 1.5}, "top_p", "a number from 0 to 1"),
        ({"top_k": -1}, "top_k", "a whole number from 0"),
        ({"min_p": -0.1}, "min_p", "a number from 0 to 1"),
        ({"max_tokens": -1}, "max_tokens", "a whole number from 0 to 32768"),
        ({"max_tokens": 40000}, "max_tokens", "a whole number from 0 to 32768"),
        ({"max_tokens": 1.5}, "max_tokens", "a whole number"),
        ({"seed": -1}, "seed", "a whole number from 0"),
        ({"n": 0}, "n", "a whole number from 1 to 128"),
        ({"logprobs": 6}, "logprobs", "a whole number from 0 to 5"),
        ({"logprobs": True}, "logprobs", "a whole number from 0 to 5"),
        ({"stop": ""}, "stop", "a string that is not empty"),
        ({"stop": ["a"] * 17}, "stop", "17 strings; there may be 16"),
        ({"stop": [1]}, "stop", "a string that is not empty"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream: true"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token ids below"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]", "a number from -100 to 100"),
        ({"logit_bias": [1]}, "logit_bias", "an object of token ids"),
        ({"presence_penalty": 3}, "presence_penalty", "a number from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty", "a number from -2 to 2"),
        ({"repetition_penalty": 0}, None, "repetition_penalty"),
        ({"best_of": 3}, "best_of", "is not supported"),
        ({"suffix": "end"}, "suffix", "is not supported"),
        ({"tools": [{}]}, "tools", "is not supported"),
        ({"response_format": {"type": "json_object"}}, None, "the vocabulary has no token"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"store": True}, "store", "is not supported"),
        ({"tempreature": 1}, "tempreature", "is not a parameter"),
        ({"model": 3}, "model", "a string"),
        ({"\ud800": 1}, r"\ud800", "is not a parameter"),
        ({"repetition_penalty": 10**400}, "repetition_penalty", "a number from 0"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "token ids below"),
        ({"echo": True, "logprobs": 1}, "logprobs", "echoed prompt are not supported"),
    ],
)
def test_what_is_wrong_is_named(
    served: Served, changes: dict[str, Any], field: str | None, complaint: str
) -> None:
    status, found, _ = served.ask("/v1/completions", {"prompt": PROMPT} | changes)
    assert status == 400
    assert found["error"]["param"] == field
    assert complaint in found["error"]["message"]
    assert found["error"]["type"] == "invalid_request_error"
    assert served.idle


def test_what_has_no_effect_is_accepted(served: Served) -> None:
    body = {
        "prompt": PROMPT,
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "suffix": None,
        "tools": [],
        "response_format": {"type": "text"},
    }
    assert served.ask("/v1/completions", body)[0] == 200


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is no number of JSON"),
        (b'{"prompt": "a", "temperature": 1e999}', "a number from 0 to 2"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_body_that_is_none_is_refused(served: Served, body: bytes, complaint: str) -> None:
    status, found, _ = served.ask("/v1/completions", body)
    assert status == 400
    assert complaint in found["error"]["message"]


def test_other_paths_methods_and_types_have_openais_form(served: Served) -> None:
    for path, body, status in (
        ("/v2", None, 404),
        ("/v1/completions", None, 405),
        ("/v1/completions/", {"prompt": "a"}, 404),
        ("/v1/embeddings", {"input": "a"}, 400),
    ):
        found = served.ask(path, body)
        assert found[0] == status
        assert found[1]["error"]["message"]
    typed = served.ask("/v1/completions", {"prompt": "a"}, {"Content-Type": "text/plain"})
    assert typed[0] == 415
