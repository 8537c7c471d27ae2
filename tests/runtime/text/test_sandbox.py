"""Hostile templates: each ends soon, in one sentence, and without much memory."""

import subprocess
import sys
import time
import tracemalloc

import pytest

from edgegpt.runtime.bundle.bundle import LARGEST_TEMPLATE
from edgegpt.runtime.errors import BundleError
from edgegpt.runtime.text.chat_template import ChatTemplate
from edgegpt.runtime.text.sandbox import meter

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
GROW = "{% set ns = namespace(x=BEGIN) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
BIG = "('a' * 3000000)"


def growing(begin: str, step: str, use: str = "") -> str:
    return GROW.replace("BEGIN", begin).replace("STEP", step) + use


TOO_LARGE = {
    "a text times a number": "{{ 'a' * 10**10 }}",
    "a number times a text": "{{ 10**10 * 'a' }}",
    "a list times a number": "{{ [0] * 10**10 }}",
    "a list of lists": "{{ [[0] * 1000] * 1000 }}",
    "a tuple times a number": "{{ (0,) * 10**10 }}",
    "doubling by +": growing("'a'", "ns.x + ns.x"),
    "doubling by ~": growing("'a'", "ns.x ~ ns.x"),
    "doubling a list by +": growing("[0]", "ns.x + ns.x"),
    "doubling inside": growing("[0]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "doubling inside of tables": growing("[0]", "{'a': ns.x, 'b': ns.x}", "{{ ns.x == ns.x }}"),
    "doubling inside of tuples": growing("0", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "doubling by dict": growing("0", "dict(a=ns.x, b=ns.x)", "{{ ns.x | tojson }}"),
    "doubling by a filter": growing("'a'", "[ns.x, ns.x] | join"),
    "doubling by replace": growing("'aa'", "ns.x.replace('a', 'aa')"),
    "doubling by the filter replace": growing("'aa'", "ns.x | replace('a', 'aa')"),
    "doubling by a block": GROW.replace("BEGIN", "'a'").replace(
        "{% set ns.x = STEP %}", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"
    ),
    "doubling by a macro": "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}"
    + growing("'a'", "twice(ns.x)"),
    "join by a long text": "{{ " + BIG + ".join('a' * 1000) }}",
    "the filter join": "{{ ('a' * 1000) | list | join(" + BIG + ") }}",
    "replace nothing": "{{ ('a' * 3000).replace('', 'b' * 3000) }}",
    "split into words": "{{ ('a ' * 1500000).split() }}",
    "split at each letter": "{{ ('a,' * 1500000).split(',') }}",
    "split from the end": "{{ ('a,' * 1500000).rsplit(',') }}",
    "lines": "{{ ('\\n' * 3000000).splitlines() }}",
    "letters": "{{ " + BIG + " | list }}",
    "letters counted by a loop": "{% for x in " + BIG + " %}{{ loop.length }}{% endfor %}",
    "indented lines": "{{ ('\\n' * 300000) | indent(30, blank=true) }}",
    "indented JSON": "{{ [[[[[[[[[[0] * 20000]]]]]]]]] | tojson(indent=32) }}",
    "JSON between long texts": "{{ messages | tojson(separators=(" + BIG + ", 'x')) }}",
    "text in a loop": "{% for x in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "slices in a loop": "{% set x = "
    + BIG
    + " %}{% for i in range(99) %}{{ x[1:][:1] }}{% endfor %}",
    "copies in a loop": "{% for i in range(99) %}{{ " + BIG + ".strip()[:1] }}{% endfor %}",
}
TOO_LONG = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "loops in a filter": "{% for a in range(99999) %}{% if range(99999) | map('abs') | first %}"
    "{% endif %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "a loop that calls itself": "{% for x in range(9) recursive %}{% if loop.depth < 60 %}"
    "{{ loop(range(9)) }}{% endif %}{% endfor %}",
    "long comparisons": "{% set x = [0] * 99999 %}{% set y = [0] * 99999 %}"
    "{% for a in range(99999) %}" + "{% if x == y %}{% endif %}" * 1000 + "{% endfor %}",
    "long tests": "{% set x = [0] * 99999 %}{% set y = [0] * 99999 %}"
    "{% for a in range(99999) %}" + "{% if x is eq(y) %}{% endif %}" * 1000 + "{% endfor %}",
    "long searches": "{% set x = 'a' * 3000000 %}"
    "{% for a in range(99999) %}" + "{% if 'ab' in x %}{% endif %}" * 1000 + "{% endfor %}",
    "a long body": "{% for a in range(99999) %}" + "{% if a %}{% endif %}" * 2500 + "{% endfor %}",
    "namespaces in namespaces": "{% set ns = namespace(x=1) %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}{% endfor %}",
}
FORBIDDEN = {
    "a power": "{{ 10 ** 10 ** 4 }}{{ 9 ** 99999 }}",
    "a product of large numbers": growing("2", "ns.x * ns.x"),
    "formatting by %": "{{ '%1000000000d' % 1 }}",
    "formatting by a filter": "{{ '%1000000000d' | format(1) }}",
    "formatting by a method": "{{ '{:1000000000}'.format(1) }}",
    "formatting by a table": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "centring": "{{ 'a' | center(10**10) }}",
    "centring by a method": "{{ 'a'.center(10**10) }}",
    "filling": "{{ 'a'.ljust(10**10) }}",
    "filling with zeros": "{{ 'a'.zfill(10**10) }}",
    "tabs": "{{ '\\t'.expandtabs(10**10) }}",
    "wrapping": "{{ 'a b' | wordwrap(1, wrapstring='a' * 10000) }}",
    "batches": "{{ [1] | batch(10**10, 0) | list }}",
    "pieces": "{{ [1] | slice(10**10) | list }}",
    "attributes": "{{ messages[0] | xmlattr }}",
    "random text": "{{ lipsum(10**6) }}",
    "a wide indent": "{{ 'a' | indent(10**10) }}",
    "a wide indent of JSON": "{{ [1] | tojson(indent=10**10) }}",
    "a wide text as indent": "{{ [1] | tojson(indent='a' * 1000) }}",
    "rounding": "{{ 5 | round(-10**10) }}",
    "a long range": "{{ range(10**10) | list }}",
    "numbers of one hash": "{{ range(0, 10**24, 2**61 - 1) | unique | list }}",
    "a long number": "{{ ('9' * 1000000) | int }}",
    "stripping by a long text": "{{ ('a' * 3000000).strip('b' * 900000 + 'a') }}",
    "trimming by a long text": "{{ ('a' * 3000000) | trim('b' * 900000 + 'a') }}",
    "searching from the end": "{{ ('a' * 3000000).rfind('b' + 'a' * 900000) }}",
    "splitting from the end": "{{ ('a' * 3000000).rsplit('b' + 'a' * 900000) }}",
    "a path of attributes": "{{ messages | sort(attribute='a' + '.a' * 900000) }}",
    "a long date": "{{ strftime_now('%Y' * 100000) }}",
    "deep lists": "{% set ns = namespace(x=0) %}{% for a in range(999) %}"
    "{% set ns.x = (ns.x,) %}{% endfor %}{{ {ns.x: 1} }}",
    "bytes": "{{ 5 .to_bytes(10**10, 'big') }}",
    "all arguments": "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(1) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a class by subscript": "{{ ''['__class__'] }}{{ messages['__class__']() }}",
    "a class by filter": "{{ '' | attr('__class__') }}",
    "globals of a function": "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__() }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a table": "{{ messages[0].update(a=1) }}",
    "another file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "escapes": "{% autoescape true %}{% endautoescape %}",
    "deep parentheses": "{{ " + "(" * 9999 + ")" * 9999 + " }}",
    "a long sum": "{{ 1" + " + 1" * 9999 + " }}",
    "deep loops": "{% for a in b %}" * 99 + "{% endfor %}" * 99,
    "deep conditions": "{% if a %}" * 999 + "{% endif %}" * 999,
    "many conditions": "{% if a %}" + "{% elif a %}" * 4500 + "{% endif %}",
}


def refusal(text: str) -> str:
    with pytest.raises(BundleError) as error:
        ChatTemplate(text, "x.jinja", {}).render(MESSAGES)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_template_that_makes_too_much_is_refused_before_it_has(monkeypatch, name):
    monkeypatch.setattr(meter, "SECONDS", 60.0)  # tracemalloc is slow
    tracemalloc.start()
    assert "it makes texts or lists that are too large" in refusal(TOO_LARGE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # bytes


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_template_that_takes_too_long_is_refused(monkeypatch, name):
    monkeypatch.setattr(meter, "SECONDS", 0.2)
    begin = time.process_time()  # other processes may have the processor, too
    assert "it takes longer than 0 seconds" in refusal(TOO_LONG[name])
    assert time.process_time() - begin < 5  # most of it for compiling


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_template_that_uses_what_it_may_not_is_refused(name):
    told = refusal(FORBIDDEN[name])
    assert "texts or lists that are too large" not in told
    assert "longer" not in told


def test_the_bounds_leave_room_for_the_longest_chats():
    text = "{% for m in messages %}{{ m.content | trim }}{{ m.content.split('x')[0] }}{% endfor %}"
    messages = [{"role": "user", "content": "y" * 1000}] * 1000
    assert len(ChatTemplate(text, "x.jinja", {}).render(messages)) == 2_000_000


def test_messages_beyond_all_bounds_are_refused_too():
    with pytest.raises(BundleError, match="too large"):
        ChatTemplate("{{ messages[0].content }}", "x.jinja", {}).render(
            [{"role": "user", "content": "y" * 5_000_000}]
        )


def test_templates_that_are_long_to_compile_take_little_memory(tmp_path):
    """In a process of its own."""
    (tmp_path / "run.py").write_text(
        "from pathlib import Path\n"
        "from edgegpt.errors import BundleError\n"
        "from edgegpt.runtime.text.chat_template import ChatTemplate\n"
        "for piece in ('{{a}}', '{{ a ~ b }}', '{% if a %}{% endif %}'):\n"
        "    try:\n"
        f"        ChatTemplate(piece * ({LARGEST_TEMPLATE} // len(piece)), 'x', {{}})\n"
        "    except BundleError:\n"
        "        pass\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    command = [sys.executable, tmp_path / "run.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400_000  # KiB


def test_a_template_may_be_longer_than_any_real_one():
    assert LARGEST_TEMPLATE > 2 * 30_000
