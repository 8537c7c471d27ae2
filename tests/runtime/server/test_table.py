"""The table of parameters in docs/serve.md is what the server does."""

import re
from pathlib import Path
from typing import Any

import pytest
from http_servers import serving

import edgegpt

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"
TEMPLATE = "{{ tools }}<tool_call>{% for m in messages %}{{ m.content }}{% endfor %}"
PATHS = {
    "/v1/completions": {"prompt": "The"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "The"}]},
}
OWN = {name: {name: value} for own in PATHS.values() for name, value in own.items()}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
# A value that asks for something, and what it cannot do without.
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": ("tiny", {}),
    "max_tokens": (2, {}),
    "max_completion_tokens": (2, {}),
    "temperature": (0.5, {}),
    "top_p": (0.5, {}),
    "seed": (1, {}),
    "n": (2, {}),
    "stop": ("a", {}),
    "logit_bias": ({"1": 1}, {}),
    "top_k": (3, {}),
    "min_p": (0.1, {}),
    "repetition_penalty": (1.1, {}),
    "ignore_eos": (True, {}),
    "presence_penalty": (0.1, {}),
    "frequency_penalty": (0.1, {}),
    "echo": (True, {}),
    "stream": (True, {}),
    "stream_options.include_usage": (True, {"stream": True}),
    "response_format": ({"type": "text"}, {}),
    "tools": (TOOLS, {}),
    "tool_choice": ("required", {"tools": TOOLS}),
    "parallel_tool_calls": (False, {"tools": TOOLS}),
    "chat_template_kwargs": ({"a": 1}, {}),
    "user": ("me", {}),
    "metadata": ({"a": "b"}, {}),
    "store: false": (False, {}),
    "store: true": (True, {}),
    "service_tier": ("auto", {}),
    "safety_identifier": ("x", {}),
    "prompt_cache_key": ("x", {}),
    "suffix": ("x", {}),
    "best_of": (2, {}),
    "functions": ([{}], {}),
    "function_call": ("auto", {}),
    "modalities": (["audio"], {}),
    "audio": ({}, {}),
    "prediction": ({}, {}),
    "web_search_options": ({}, {}),
    "reasoning_effort": ("low", {}),
    "verbosity": ("low", {}),
}


def rows() -> list[tuple[str, str, str]]:
    """Return each parameter of the table, and what it says of both endpoints."""
    table = PAGE.read_text(encoding="utf-8").split("| parameter | completions | chat | |\n")[1]
    found = []
    for line in table.split("\n\n")[0].splitlines()[1:]:
        names, completions, chat, _ = line.strip("|").split("|")
        found += [
            (name, completions.strip(), chat.strip()) for name in re.findall("`(.+?)`", names)
        ]
    return found


@pytest.fixture
def small_bundle(byte_bundle: Path) -> Path:
    """Let `altered_bundle` be one of these."""
    return byte_bundle


def asking(name: str, said: str) -> dict[str, Any]:
    """Return the fields that ask for what a row is about; `said`: what it promises."""
    if name in OWN:
        return OWN[name]
    if name == "logprobs":
        return {name: True if said == "true" else int(said[-1])}
    if name == "top_logprobs":
        return {name: int(said[-2:]), "logprobs": True} if said else {name: 1}
    value, needed = VALUES[name]
    field, _, inner = name.partition(":")[0].partition(".")
    return {field: {inner: value} if inner else value, **(needed if said else {})}


def test_each_row_of_the_table_is_so(altered_bundle: Any) -> None:
    found = rows()
    assert len(found) > 40
    folder = altered_bundle(files={"chat_template.jinja": TEMPLATE.encode()})
    with edgegpt.load(folder, "cpu", threads=1) as model, serving(model) as served:
        for name, *both in found:
            for (path, own), said in zip(PATHS.items(), both, strict=True):
                body = {"max_tokens": 1, "temperature": 0, **own, **asking(name, said)}
                status, answer, _ = served.ask(path, body)
                if said not in ("", "refused"):
                    assert status == 200, (name, path, answer)
                    continue
                assert status == 400, (name, path)
                assert answer["error"]["param"] == re.match(r"\w+", name)[0], (name, path, answer)
