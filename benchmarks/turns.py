"""Time to the first token by turn of a chat, with the cache of the turns before and without it.

    python benchmarks/turns.py BUNDLE [--tokens 48] [--rounds 3] [--threads N] [--out FILE.json]

The bundle has a chat template. A round is the same chat four times: with `Conversation`, which
keeps its row; by `stream`, which begins anew each time; through the server, whose rows keep their
tokens; and through the server with another system message in each turn, so that nothing is there.
The answers of the first are the history of the others.
"""

import argparse
import http.client
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from serving import server, spread

import edgegpt
from edgegpt.runtime.chat import Conversation

SYSTEM = "You are the guide of a small museum of the sea, and answer in a few friendly sentences."
QUESTIONS = [
    "What is the oldest thing that can be seen here?",
    "Who built the ship in the great hall, and how long did it take?",
    "My daughter is six. What would you show her first?",
    "How did sailors find their way before there were maps of these coasts?",
    "Is there a place nearby where we can eat fish?",
    "What happened in the storm of which the picture at the entrance tells?",
    "How much does a ticket cost for two adults and a child?",
    "Thank you! What should we not miss before we leave?",
]
WAYS = {
    "kept": "`Conversation`",
    "anew": "begun anew",
    "server": "server",
    "server_anew": "server, begun anew",
}

Message = dict[str, Any]


def first_of(begun: Callable[[], Iterable[str]]) -> float:
    """Return the seconds from the call to the first piece; take the others, too."""
    begin = time.perf_counter()
    pieces = iter(begun())
    next(pieces)
    seconds = time.perf_counter() - begin
    for _ in pieces:
        pass
    return seconds


def kept(model: edgegpt.LanguageModel, tokens: int) -> tuple[list[float], list[Message]]:
    """Chat; return the seconds to the first token of each turn, and the history."""
    chat = Conversation(model, SYSTEM, max_new_tokens=tokens, temperature=0.0, ignore_eos=True)
    seconds = [first_of(partial(chat.stream, question)) for question in QUESTIONS]
    chat.close()
    return seconds, chat.messages


def turns(history: list[Message]) -> list[list[Message]]:
    """Return the messages that each answer follows."""
    return [history[: 2 * turn + 2] for turn in range(len(QUESTIONS))]


def anew(model: edgegpt.LanguageModel, history: list[Message]) -> list[float]:
    """Return the seconds to the first token of each turn, all of it computed again."""

    def begun(messages: list[Message]) -> Iterable[str]:
        prompt = model.apply_chat_template(messages, special_tokens=False)
        return model.stream(prompt, max_new_tokens=1, temperature=0.0, overflow="stop")

    return [first_of(partial(begun, messages)) for messages in turns(history)]


def asked(port: int, messages: list[Message], tokens: int) -> float:
    """Return the seconds to the first token that the server sends."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {"messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    begin, first = time.perf_counter(), 0.0
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body | {"stream": True}),
        {"Content-Type": "application/json"},
    )
    for line in connection.getresponse():
        if b'"content":"' in line and b'"content":""' not in line:
            first = first or time.perf_counter() - begin
    connection.close()
    return first


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all rounds, and the tokens of each prompt."""
    rounds, tokens = [], arguments.tokens
    with (
        edgegpt.load(arguments.bundle, "cpu", threads=arguments.threads) as model,
        server(arguments) as port,
    ):
        kept(model, 2)  # warm
        asked(port, turns([{"role": "system", "content": SYSTEM}])[0], 2)
        for number in range(arguments.rounds):
            seconds, history = kept(model, tokens)
            one = {"kept": seconds, "anew": anew(model, history)}
            own = [{**history[0], "content": f"{number}. {SYSTEM}"}, *history[1:]]
            one["server"] = [asked(port, messages, tokens) for messages in turns(own)]
            one["server_anew"] = [
                asked(port, [{**own[0], "content": f"{turn}{number}. {SYSTEM}"}, *messages[1:]], 1)
                for turn, messages in enumerate(turns(own))
            ]
            rounds.append(one)
        prompts = [model.apply_chat_template(one, special_tokens=False) for one in turns(history)]
        lengths = [len(model.encode_prompt(prompt)) for prompt in prompts]
    return {"bundle": arguments.bundle.name, "prompt_tokens": lengths, "rounds": rounds}


def table(found: dict[str, Any]) -> str:
    """Return milliseconds by turn, the medians with the smallest and the largest, as Markdown."""
    lines = ["| turn | tokens before it | " + " | ".join(WAYS.values()) + " |"]
    lines.append("|---" * (2 + len(WAYS)) + "|")
    for turn, length in enumerate(found["prompt_tokens"]):
        cells = [spread([1e3 * one[way][turn] for one in found["rounds"]], 0) for way in WAYS]
        lines.append(f"| {turn + 1} | {length} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--context", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
