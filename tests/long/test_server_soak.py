"""A server that goes on for long: 10,000 requests, and crowds with the times that users have."""

import json
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crowds import half_requests, slow_readers
from http_servers import until
from server_processes import Running, process_of

from edgegpt.export import export_bundle

pytestmark = pytest.mark.long

REQUESTS, PARTS, CLIENTS = 10_000, 10, 24
MOST_GROWTH = 10e6  # bytes between the second part and the last: a kilobyte a request is 8 MB
TEMPLATE = b"{% for m in messages %}{{ m.role[0] }}; {{ m.content }}\n{% endfor %}"
TEXT = "The wind was up before the sun, and"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A bundle with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(small_checkpoint, folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_bytes(TEMPLATE)
    export_bundle(folder / "checkpoint", folder / "bundle")
    return folder / "bundle"


def one_request(served: Running, number: int) -> None:
    """Ask for something, in one of many ways; some leave, some are wrong."""
    chance = random.Random(number)
    body = {
        "prompt": TEXT[: chance.randint(1, 30)],
        "max_tokens": chance.randint(1, 30),
        "seed": number,
        "stream": chance.random() < 0.5,
    }
    way = chance.randrange(10)
    if way < 2:  # leaves, at any moment
        client = served.posted(body | {"max_tokens": 2000})
        time.sleep(chance.random() * 0.05)
        client.close()
    elif way == 2:
        wrong = chance.choice([b"{", b"\xff", {"prompt": 3}, {"prompt": TEXT * 9}, {"model": "no"}])
        assert served.ask("/v1/completions", wrong)[0] in (400, 404)
    elif way == 3:
        messages = [{"role": "user", "content": TEXT[: chance.randint(1, 20)]}]
        talk = {"messages": messages, "max_tokens": 8, "logprobs": True, "top_logprobs": 5}
        assert served.ask("/v1/chat/completions", talk)[0] == 200
    elif way == 4:
        settings = {"n": 3, "logprobs": 3, "logit_bias": {"1": 2}, "stop": "e", "echo": False}
        assert served.ask("/v1/completions", body | settings)[0] == 200
    else:
        status, found, _ = served.ask("/v1/completions", body)
        assert status == 200
        assert not body["stream"] or found.rstrip().endswith("data: [DONE]")


def test_memory_stays_constant_over_10_000_requests(bundle: Path, tmp_path: Path) -> None:
    resident = []
    with process_of(bundle, tmp_path / "log.txt") as served:
        with ThreadPoolExecutor(CLIENTS) as clients:
            for part in range(PARTS):
                count = REQUESTS // PARTS
                numbers = range(part * count, (part + 1) * count)
                list(clients.map(lambda number: one_request(served, number), numbers))
                until(lambda: served.idle)
                resident.append(served.resident)
        until(lambda: served.descriptors < CLIENTS)
        said = (tmp_path / "log.txt").read_text()
    print(json.dumps({"resident_mb": [round(one / 1e6, 1) for one in resident]}))
    assert resident[-1] - resident[1] < MOST_GROWTH
    assert "Traceback" not in said


def test_crowds_are_cut_in_the_times_that_the_pages_tell(bundle: Path, tmp_path: Path) -> None:
    with process_of(bundle, tmp_path / "log.txt", "--rows", "256") as served:
        half_requests(served, seconds=90)
        slow_readers(served, seconds=300, tops=0)
