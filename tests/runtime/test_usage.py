"""What a bundle says about its use: how prompts begin, what ends a text, defaults, chats."""

import dataclasses
import json

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Defaults, Usage
from edgegpt.runtime.engines.ort.cpu import OrtEngine
from edgegpt.runtime.errors import BundleError, InvalidInputError

pytestmark = pytest.mark.filterwarnings("ignore::edgegpt.errors.EdgeGPTWarning")

PROMPT = "The wind"
START = [5, 7]
COUNT = 24
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}; {{ m.content }}\n{% endfor %}{{ bos_token }}"


@pytest.fixture
def opened(altered_bundle):
    """Return a function that opens the small bundle with a usage and other files."""
    models = []

    def load(usage=None, files=None, **settings):
        folder = altered_bundle(usage=usage, files=files)
        models.append(edgegpt.load(folder, threads=1, **settings))
        return models[-1]

    yield load
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def plain(small_bundle):
    with edgegpt.load(small_bundle, threads=1) as model:
        yield model


def greedy(plain, ids):
    return plain.generate(ids, max_new_tokens=COUNT).token_ids


def test_a_bundle_that_says_nothing_is_used_as_ever(plain):
    assert plain.usage == Usage()
    assert plain.encode_prompt(PROMPT) == plain.tokenizer.encode(PROMPT)


def test_the_usage_is_told(opened):
    usage = Usage(start_ids=(5,), end_ids=(3,), sampling=Defaults(temperature=0.5))
    assert opened(usage).usage == usage


def test_text_prompts_begin_with_the_start_ids_and_ids_do_not(opened, plain):
    model = opened(Usage(start_ids=tuple(START)))
    ids = model.tokenizer.encode(PROMPT)
    assert model.encode_prompt(PROMPT) == START + ids
    assert model.encode_prompt(ids) == ids
    for prompt, whole in ((PROMPT, START + ids), (ids, ids)):
        assert model.generate(prompt, max_new_tokens=COUNT).token_ids == greedy(plain, whole)
    stream = model.stream(PROMPT, max_new_tokens=COUNT)
    assert "".join(stream) == stream.result.text
    assert stream.result.token_ids == greedy(plain, START + ids)


def test_a_text_that_begins_with_the_start_ids_gets_no_others(opened, plain):
    model = opened(Usage(start_ids=tuple(plain.tokenizer.encode("Th"))))
    assert model.encode_prompt(PROMPT) == model.tokenizer.encode(PROMPT)
    assert model.encode_prompt("T") == model.tokenizer.encode("ThT")


def test_an_empty_text_with_start_ids_is_a_prompt(opened):
    assert opened(Usage(start_ids=(5,))).encode_prompt("") == [5]


def test_the_end_ids_end_a_text_and_are_not_printed(opened, plain):
    whole = plain.generate(PROMPT, max_new_tokens=COUNT)
    end = whole.token_ids[9]
    place = whole.token_ids.index(end)
    model = opened(Usage(end_ids=(end,)))
    result = model.generate(PROMPT, max_new_tokens=COUNT)
    assert (result.finish_reason, result.token_ids) == ("eos", whole.token_ids[: place + 1])
    assert result.text == model.tokenizer.decode(whole.token_ids[:place])
    stream = model.stream(PROMPT, max_new_tokens=COUNT)
    assert "".join(stream) == result.text


def test_end_ids_of_the_caller_replace_those_of_the_bundle(opened, plain):
    whole = plain.generate(PROMPT, max_new_tokens=COUNT)
    first, later = whole.token_ids[3], next(i for i in whole.token_ids if i != whole.token_ids[3])
    model = opened(Usage(end_ids=(first,)))
    alone = plain.generate(PROMPT, max_new_tokens=COUNT, end_ids=later)
    for ignore in (False, True):
        found = model.generate(PROMPT, max_new_tokens=COUNT, end_ids=later, ignore_eos=ignore)
        assert (found.token_ids, found.finish_reason) == (alone.token_ids, "eos")
    for settings in ({"ignore_eos": True}, {"end_ids": []}):
        found = model.generate(PROMPT, max_new_tokens=COUNT, **settings)
        assert (found.token_ids, found.finish_reason) == (whole.token_ids, "length")
        stream = model.stream(PROMPT, max_new_tokens=COUNT, **settings)
        assert "".join(stream) == whole.text


RECOMMENDED = Defaults(1.3, 12, 0.95, 0.01, 1.2)


def test_the_recommended_sampling_holds_unless_the_caller_says_otherwise(opened, plain):
    settings = dataclasses.asdict(RECOMMENDED)
    model = opened(Usage(sampling=RECOMMENDED))
    rest = {"seed": 4, "max_new_tokens": COUNT}
    expected = plain.generate(PROMPT, **settings, **rest)
    assert model.generate(PROMPT, **rest).token_ids == expected.token_ids
    assert "".join(model.stream(PROMPT, **rest)) == expected.text
    others = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    for name, value in others.items():
        expected = plain.generate(PROMPT, **settings | {name: value}, **rest)
        assert model.generate(PROMPT, **{name: value}, **rest).token_ids == expected.token_ids
    assert model.generate(PROMPT, **others, **rest).token_ids == greedy(plain, PROMPT)


def test_what_is_not_recommended_is_as_ever(opened, plain):
    model = opened(Usage(sampling=Defaults(temperature=1.0)))
    found = model.generate(PROMPT, seed=4, max_new_tokens=COUNT)
    expected = plain.generate(PROMPT, temperature=1.0, seed=4, max_new_tokens=COUNT)
    assert found.token_ids == expected.token_ids


def test_a_chat_becomes_a_prompt_that_nothing_is_put_before(opened):
    usage = Usage(start_ids=tuple(START), special_tokens={"bos_token": "qu"})
    model = opened(usage, {"chat_template.jinja": TEMPLATE.encode()})
    prompt = model.apply_chat_template([{"role": "user", "content": "hay"}])
    assert prompt == "u; hay\nqu"
    assert model.encode_prompt(prompt) == model.tokenizer.encode(prompt)
    assert model.encode_prompt(str(prompt) + "i") == START + model.tokenizer.encode("u; hay\nqui")
    ids = model.tokenizer.encode(prompt)
    found = model.generate(prompt, max_new_tokens=COUNT).token_ids
    assert found == model.generate(ids, max_new_tokens=COUNT).token_ids
    assert found == model.generate([prompt], max_new_tokens=COUNT)[0].token_ids
    stream = model.stream(prompt, max_new_tokens=COUNT)
    assert "".join(stream) == stream.result.text
    assert stream.result.token_ids == found


def test_without_a_template_a_chat_is_refused(plain):
    with pytest.raises(InvalidInputError, match="has no chat template"):
        plain.apply_chat_template([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (b"{% if %}", r"chat_template\.jinja is no usable chat template"),
        (b"\xff", r"cannot read .*chat_template\.jinja"),
        (b" " * 70_000, r"chat_template\.jinja is larger than 65,536 bytes"),
        (b"{{ 'a' * 10**10 }}", r"chat_template\.jinja cannot be used .* too large"),
    ],
)
def test_a_bad_template_is_refused_when_it_is_used(opened, template, words):
    model = opened(None, {"chat_template.jinja": template})
    assert model.generate(PROMPT, max_new_tokens=1)
    with pytest.raises(BundleError, match=words):
        model.apply_chat_template([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("position", "overflow"), [("learned", "slide"), ("rope", "stop"), ("none", "stop")]
)
def test_only_learned_positions_let_the_context_slide(
    altered_bundle, small_bundle, position, overflow
):
    model = Bundle.open(small_bundle).manifest.model | {"position": position}
    with edgegpt.load(altered_bundle(model=model), threads=1) as opened:
        assert opened.default_overflow == overflow
        reason = opened.generate(PROMPT).finish_reason
    assert reason == ("length" if overflow == "slide" else "context")


def test_the_cache_is_never_longer_than_the_context_that_was_asked_for(small_bundle, monkeypatch):
    asked = []
    new_state = OrtEngine.new_state
    monkeypatch.setattr(
        OrtEngine,
        "new_state",
        lambda self, rows, context, *_: asked.append(context) or new_state(self, rows, context),
    )
    with edgegpt.load(small_bundle, context=11, threads=1) as model:
        model.generate([1, 2, 3], max_new_tokens=2)
        model.generate([1, 2, 3], max_new_tokens=30)
    assert asked == [5, 11]


@pytest.fixture
def run(capsys):
    def invoke(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    return invoke


@pytest.fixture
def imported(altered_bundle, plain):
    """A bundle that says all that one may say."""
    ids = [5, *plain.tokenizer.encode(PROMPT)]
    written = plain.generate(ids, temperature=1.0, top_k=5, seed=2, max_new_tokens=60).token_ids
    usage = Usage((5,), (written[-1],), 0, Defaults(temperature=1.0, top_k=5), {"bos_token": "qu"})
    source = Source("llama", "someone/model", "apache-2.0")
    files = {"chat_template.jinja": TEMPLATE.encode()}
    return altered_bundle(usage=usage, source=source, files=files)


def test_generate_uses_what_the_bundle_says(run, imported):
    arguments = ("generate", imported, "--prompt", PROMPT, "--seed", 2, "--json")
    with edgegpt.load(imported, threads=1) as model:
        expected = model.generate(PROMPT, seed=2)
        further = model.generate(PROMPT, seed=2, ignore_eos=True)
    assert expected.finish_reason == "eos"
    assert json.loads(run(*arguments)[1])["token_ids"] == expected.token_ids
    assert json.loads(run(*arguments, "--ignore-eos")[1])["token_ids"] == further.token_ids
    with edgegpt.load(imported, threads=1) as model:
        greedy = model.generate(PROMPT, temperature=0, end_ids=7, max_new_tokens=9)
    options = ("--temperature", 0, "--end-id", 7, "--max-new-tokens", 9)
    assert json.loads(run(*arguments, *options)[1])["token_ids"] == greedy.token_ids


def test_generate_renders_a_chat_and_prints_the_answer_only(run, imported):
    with edgegpt.load(imported, threads=1) as model:
        messages = [{"role": "system", "content": "so"}, {"role": "user", "content": "hay"}]
        prompts = [model.apply_chat_template(messages[1:]), model.apply_chat_template(messages)]
        answers = [model.generate(prompt, seed=2, max_new_tokens=9) for prompt in prompts]
    chat = ("generate", imported, "--prompt", "hay", "--seed", 2, "--max-new-tokens", 9, "--chat")
    for options, prompt, answer in zip(([], ["--system", "so"]), prompts, answers, strict=True):
        assert run(*chat, *options)[1] == f"{answer.text}\n"
        found = json.loads(run(*chat, *options, "--json")[1])
        assert (found["prompt"], found["token_ids"]) == (prompt, answer.token_ids)


def test_chat_is_refused_by_name_without_a_template(run, small_bundle):
    code, out, told = run("generate", small_bundle, "--prompt", "hay", "--chat")
    assert (code, out) == (1, "")
    assert told == f"error: {small_bundle} has no chat template: its source brought none\n"


@pytest.mark.parametrize(
    "options", [["--prompt-ids", "1", "--chat"], ["--prompt", "a", "--system", "b"]]
)
def test_chat_takes_one_text_and_system_belongs_to_chat(run, small_bundle, options):
    code, _, told = run("generate", small_bundle, *options)
    assert code == 2
    assert "--chat" in told


def test_inspect_shows_use_and_origin(run, imported, small_bundle):
    _, out, _ = run("inspect", imported)
    (end,) = Bundle.open(imported).manifest.usage.end_ids
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "source someone/model, family llama, licence: apache-2.0" in lines
    assert f"prompts begin with 5, end at {end}, with a chat template" in lines
    assert "sampling temperature 1, top_k 5" in lines
    facts = json.loads(run("inspect", imported, "--json")[1])
    manifest = Bundle.open(imported).manifest
    assert facts["source"] == dataclasses.asdict(manifest.source)
    assert Usage.of(facts["usage"], "usage") == manifest.usage
    assert facts["chat_template"] is True
    _, out, _ = run("inspect", small_bundle)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"source unknown", "prompts no chat template", "sampling the most likely token"} <= {
        *lines
    }
    facts = json.loads(run("inspect", small_bundle, "--json")[1])
    assert (facts["source"], facts["usage"], facts["chat_template"]) == (None, None, False)


def test_bench_decodes_on_after_an_end_id(run, altered_bundle, plain):
    ends = tuple(range(plain.vocab_size))
    bundle = altered_bundle(usage=Usage(end_ids=ends, sampling=Defaults(temperature=1.0)))
    settings = ("--repeats", 1, "--tokens", 4, "--depths", 4, "--batches", 1, "--json")
    code, out, _ = run("bench", bundle, *settings)
    result = json.loads(out)
    assert code == 0
    assert len(result["cells"][0]["repeats"][0]["step_s"]) == 4
    assert result["sampling"] == "greedy"
