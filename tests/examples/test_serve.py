"""examples/serve: the unit, the images, the clients. Docker and systemd run nothing here."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import ROOT
from serve_processes import EDGEGPT, ServeProcess, serve_process

from edgegpt.runtime.server.run import LAST_ANSWERS

pytest.importorskip("uvicorn", reason="uvicorn is not installed: the extra serve brings it")

FOLDER = ROOT / "examples" / "serve"
DOCKERFILES = [FOLDER / "Dockerfile", FOLDER / "Dockerfile.jetson"]
KEY = "a key of this test"


def unit() -> configparser.SectionProxy:
    """Return the service of the unit; of an option that comes twice, the last."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(FOLDER / "edgegpt.service")
    assert parser.sections() == ["Unit", "Service", "Install"]
    return parser["Service"]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("credentials")
    (folder / "key").write_text(f"{KEY}\n")
    return folder / "key"


@pytest.fixture(scope="module")
def served(page_bundle: Path, key_file: Path) -> Iterator[ServeProcess]:
    """A server with a key, and a bundle that knows the examples' prompts."""
    command = [*EDGEGPT, "serve", page_bundle, "--threads", "1", "--api-key-file", key_file]
    with serve_process(command) as found:
        yield found


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: its directives were not checked")
    text = (FOLDER / "edgegpt.service").read_text()
    assert text.count("=/opt/edgegpt/venv/bin/edgegpt ") == 2
    text = text.replace("/opt/edgegpt/venv/bin/edgegpt", "/bin/true")  # it looks for the program
    (tmp_path / "edgegpt.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / "edgegpt.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_has_few_rights_and_leaves_texts_their_time() -> None:
    service = unit()
    rights = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}
    assert rights.items() <= dict(service).items()
    assert service["CapabilityBoundingSet"] == ""
    assert service["StateDirectory"] == service["CacheDirectory"] == "edgegpt"
    drain = float(option(shlex.split(service["ExecStart"]), "--drain"))
    assert float(service["TimeoutStopSec"]) > drain + LAST_ANSWERS


def test_the_unit_proves_the_bundle_and_serves_it_to_who_has_the_key(
    page_bundle: Path, key_file: Path, tmp_path: Path
) -> None:
    service = unit()
    variables = dict(one.split("=", 1) for one in shlex.split(service["Environment"]))
    assert variables == {"XDG_STATE_HOME": "%S/edgegpt", "XDG_CACHE_HOME": "%C/edgegpt"}
    name, _, source = service["LoadCredential"].partition(":")
    assert source == "/etc/edgegpt/key"
    assert f"${{CREDENTIALS_DIRECTORY}}/{name}" in service["ExecStart"]
    environment = {"XDG_STATE_HOME": str(tmp_path / "S"), "XDG_CACHE_HOME": str(tmp_path / "C")}
    proof, command = (
        [*EDGEGPT, *shlex.split(_placed(service[line], page_bundle, key_file))[1:]]
        for line in ("ExecStartPre", "ExecStart")
    )
    subprocess.run(proof, env=os.environ | environment, check=True, capture_output=True)
    assert list((tmp_path / "S").rglob("*.json"))  # the receipt
    with serve_process(command, environment) as found:
        assert found.ask("/health")[0] == 200
        assert found.ask("/v1/models")[0] == 401
        status, models, _ = found.ask("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        assert (status, models["data"][0]["id"]) == (200, "model")


def _placed(line: str, bundle: Path, key_file: Path) -> str:
    line = line.replace("/opt/edgegpt/bundle", shlex.quote(str(bundle)))
    return line.replace("${CREDENTIALS_DIRECTORY}", shlex.quote(str(key_file.parent)))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each as one line."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, rest) for name, _, rest in lines]


def the(dockerfile: Path, wanted: str) -> str:
    (found,) = (rest for name, rest in instructions(dockerfile) if name == wanted)
    return found


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_not_root_writes_where_it_may_and_installs_what_there_is(
    dockerfile: Path,
) -> None:
    made = " ".join(rest for name, rest in instructions(dockerfile) if name == "RUN")
    user = the(dockerfile, "USER")
    assert f"useradd --uid {user} " in made
    assert user != "0"
    folders = dict(one.split("=", 1) for one in shlex.split(the(dockerfile, "ENV")))
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        assert re.search(rf"install -d -o edgegpt( /\w+)* {folders[variable]}\b", made), variable
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (named,) = re.findall(r"edgegpt_toolkit-\*\.whl\)\[([\w,]+)\]", made)
    assert set(named.split(",")) <= set(extras["optional-dependencies"])


def test_the_image_for_a_jetson_says_first_that_it_was_never_built() -> None:
    assert DOCKERFILES[1].read_text().startswith("# Never built, never run:")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_s_command_is_one_that_the_server_accepts(dockerfile: Path) -> None:
    command = json.loads(the(dockerfile, "ENTRYPOINT"))
    assert command[:3] == ["edgegpt", "serve", "/bundle"]
    here = [*EDGEGPT, *command[1:], "--threads", "0"]  # the last is refused
    done = subprocess.run(here, capture_output=True, text=True, check=False)
    assert "'--threads': 0 is not in the range" in done.stderr


def test_the_composition_fits_the_image_and_the_server() -> None:
    composed = _composed()
    serve, verify = composed["services"]["serve"], composed["services"]["verify"]
    for service in (serve, verify):
        assert service["read_only"] is True
        assert service["mem_limit"]
        mounted = {one.split(":")[1] for one in service["volumes"]}
        assert mounted == {"/bundle", "/state", "/cache"}
        volumes = {one.split(":")[0] for one in service["volumes"]} - {"./bundle"}
        assert volumes == set(composed["volumes"])
    assert serve["depends_on"] == {"verify": {"condition": "service_completed_successfully"}}
    assert verify["entrypoint"] == ["edgegpt", "verify", "/bundle"]
    assert serve["secrets"] == list(composed["secrets"]) == ["key"]
    drain = float(option(serve["command"], "--drain"))
    assert float(serve["stop_grace_period"].removesuffix("s")) > drain + LAST_ANSWERS
    assert all(port.startswith("127.0.0.1:") for port in serve["ports"])


def test_what_runs_in_the_container_is_healthy_while_it_serves_who_has_the_key(
    page_bundle: Path, key_file: Path
) -> None:
    """The image's command with the composition's options, in folders of the test."""
    image, options = json.loads(the(FOLDER / "Dockerfile", "ENTRYPOINT")), ["--threads", "1"]
    serve = _composed()["services"]["serve"]
    checks = [serve["healthcheck"]["test"][1:], *map(_health_check, DOCKERFILES)]
    assert {tuple(check[1:]) for check in checks} == {tuple(checks[0][1:])}
    check = [sys.executable, *checks[0][1:]]
    assert image[5:] == ["--port", "8000"]
    places = {"/bundle": str(page_bundle), "/run/secrets/key": str(key_file)}
    inside = [*image[1:5], *serve["command"], *options]
    with serve_process([*EDGEGPT, *(places.get(one, one) for one in inside)]) as found:
        check[-1] = check[-1].replace("8000", str(found.port))
        assert subprocess.run(check, check=False).returncode == 0
        assert found.ask("/v1/models")[0] == 401
    assert subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 1


def _composed() -> dict[str, dict]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((FOLDER / "docker-compose.yml").read_text())


def _health_check(dockerfile: Path) -> list[str]:
    return json.loads(the(dockerfile, "HEALTHCHECK").partition("CMD ")[2])


def _client(served: ServeProcess, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"OPENAI_BASE_URL": f"{served.url}/v1", "OPENAI_API_KEY": key}
    return subprocess.run(
        [sys.executable, FOLDER / "client.py", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_client_streams_a_text_and_names_the_bundle(served: ServeProcess) -> None:
    pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    key = {"Authorization": f"Bearer {KEY}"}
    wanted = {"prompt": "ROMEO:", "max_tokens": 100, "temperature": 0.8, "seed": 1}
    text = served.ask("/v1/completions", wanted, key)[1]["choices"][0]["text"]
    (model,) = served.ask("/v1/models", headers=key)[1]["data"]
    about = f"[{model['id']}, bundle {model['bundle']}: 100 tokens, length]"
    done = _client(served, KEY, "ROMEO:", "a session")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ROMEO:{text}\n{about}\n", "")


def test_what_the_client_is_refused_is_one_sentence(served: ServeProcess) -> None:
    pytest.importorskip("openai", reason="openai is not installed: pip install openai")
    for key, prompt, told in ((KEY, "snow ☃", "☃"), ("wrong", "ROMEO:", "the API key is")):
        done = _client(served, key, prompt)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_curl_gets_health_models_a_text_and_events(served: ServeProcess) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def run(key: str) -> subprocess.CompletedProcess[str]:
        command = [FOLDER / "curl.sh", served.url]
        own = os.environ | {"EDGEGPT_API_KEY": key}
        return subprocess.run(command, env=own, capture_output=True, text=True, check=False)

    done = run(KEY)
    assert (done.returncode, done.stderr) == (0, "")
    health, models, text, *events = [line for line in done.stdout.splitlines() if line]
    assert json.loads(health) == {"status": "ok"}
    assert json.loads(models)["object"] == "list"
    written = json.loads(text)["choices"][0]["text"]
    assert len(written) == 40
    assert events.pop() == "data: [DONE]"
    pieces = [json.loads(one.removeprefix("data: "))["choices"][0]["text"] for one in events]
    assert "".join(pieces) == written[:10]
    refused = run("wrong")
    assert refused.returncode == 22
    assert "the API key is missing or wrong" in refused.stdout


def test_every_file_is_named_on_the_page() -> None:
    page = (ROOT / "docs" / "serve.md").read_text() + (ROOT / "docs" / "scale.md").read_text()
    for path in FOLDER.iterdir():
        if path.is_file():
            assert f"(../examples/serve/{path.name})" in page, path.name
