"""Ask a server with OpenAI's package: `python client.py "ROMEO:"`.

    pip install openai
    edgegpt serve build/shakespeare-char

`OPENAI_BASE_URL` (default: http://127.0.0.1:8000/v1) says where it is, `OPENAI_API_KEY` has its
key, and a second argument names a session: a load balancer that heeds it, as that of nginx.conf
does, sends all of its requests to one server, which has the beginnings of earlier prompts ready.
"""

import os
import sys

import openai


def main(prompt: str, session: str = "") -> None:
    """Print the text that follows the prompt as it comes, and how it ended."""
    client = openai.OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        default_headers={"X-Session": session} if session else {},
    )
    (model,) = client.models.list()
    print(prompt, end="", flush=True)
    events = client.completions.create(
        model=model.id,
        prompt=prompt,
        max_tokens=100,
        temperature=0.8,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    reason, usage = None, None
    for event in events:
        for choice in event.choices:  # none in the last event, which has the usage
            print(choice.text, end="", flush=True)
            reason = choice.finish_reason or reason
        usage = event.usage or usage
    tokens = usage.completion_tokens if usage else 0
    print(f"\n[{model.id}, bundle {getattr(model, 'bundle', '?')}: {tokens} tokens, {reason}]")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except openai.OpenAIError as error:  # no server, a wrong key, an unknown character, ...
        sys.exit(f"error: {error}")
