"""What templates may not do, and that hostile ones end soon and small."""

from __future__ import annotations

import sys
import time

import pytest
from rendering import USER, render

from miaotui.errors import TemplateError
from miaotui.text.chat import ChatTemplate

FORBIDDEN = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].clear() }}",
    "{{ raise_exception.__globals__.x }}",
    "{{ cycler(1) }}",
    "{{ self.x() }}",
    "{{ lipsum(5) }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.zfill(3) }}",
    "{{ 'a' | center(3) }}",
    "{{ 'a' | attr('__class__') }}",
    "{{ '{0.__class__.x}'.format(1) }}",
    "{{ ['a'] | map('center', 3) | list }}",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_what_templates_may_not_do(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


GROW = "{% set ns = namespace(x=START) %}{% for i in range(200) %}{% set ns.x = STEP %}{% endfor %}"


def grow(start: str, step: str, use: str = "{{ ns.x }}") -> str:
    return GROW.replace("START", start).replace("STEP", step) + use


LOOP = "{% for i in range(99999) %}"


END = "{% endfor %}"


MACRO = "{% macro m(n) %}"


HOSTILE = {
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": LOOP + LOOP + END + END,
    "nested output": LOOP + LOOP + "x" + END + END,
    "long text in a loop": LOOP + "y" * 60_000 + END,
    "text kept": "{% set x %}" + LOOP + "y" * 60_000 + END + "{% endset %}",
    "repeated text": "{{ 'a' * 10**9 }}",
    "repeated text, other way": "{{ 10**9 * 'a' }}",
    "repeated list": "{{ [0] * 10**9 }}",
    "many large values": "".join(f"{{% set a{i} = 'x' * 900000 %}}" for i in range(100)),
    "doubled by +": grow("'ab'", "ns.x + ns.x"),
    "doubled by *": grow("'ab'", "ns.x * 2"),
    "doubled by ~": grow("'ab'", "ns.x ~ ns.x"),
    "doubled by join": grow("'ab'", "ns.x.join([ns.x, ns.x])"),
    "doubled by format": grow("'ab'", "'{0}{0}'.format(ns.x)"),
    "doubled by %": grow("'ab'", "'%s%s' % (ns.x, ns.x)"),
    "doubled by replace": grow("'aa'", "ns.x | replace('a', 'aa')"),
    "shared lists": grow("[1]", "[ns.x, ns.x]"),
    "shared lists, compared": grow("[1]", "[ns.x, ns.x]", "{{ ns.x == [ns.x] }}"),
    "shared tuples": grow("(1,)", "(ns.x, ns.x)", "{{ ns.x | string }}"),
    "shared dicts": grow("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x | tojson }}"),
    "shared by dict()": grow("{}", "dict(a=ns.x, b=ns.x)", "{{ ns.x | tojson }}"),
    "shared by items()": grow("{'a': 1}", "{'x': [ns.x.items(), ns.x.items()]}"),
    "shared arguments": (MACRO + "{{ m(n - 1, varargs, varargs) if n else varargs }}{% endmacro %}{{ m(60, 1) }}"),
    "a namespace in a list": "{% set a = namespace() %}{% set a.x = [a, a] %}{{ a.x }}",
    "a namespace in itself": "{% set a = namespace() %}{% set a.x = a %}{{ a }}",
    "a namespace in arguments": MACRO + "{{ varargs }}{% endmacro %}{{ m(1, namespace()) }}",
    "huge powers": "{{ 2 ** 99999999 }}",
    "huge integers": grow("7", "ns.x * ns.x"),
    "padded numbers": "{{ '%1000000000d' % 1 }}",
    "padded by argument": "{{ '%*d' % (1000000000, 1) }}",
    "padded by format": "{{ '{:1000000000}'.format(1) }}",
    "padded by format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "padded dates": "{{ strftime_now('%1000000000Y') }}",
    "slow formats": "{{ ('%(' * 400000) % 1 }}",
    "rounded far": "{{ 1.5 | round(10**9, 'floor') }}",
    "indented far": "{{ 'a\\nb' | indent(10**9) }}",
    "indented often": "{{ ('\\n' * 900000) | indent(200) }}",
    "indented json": "{{ [[1]] | tojson(indent=10**9) }}",
    "joined often": "{{ range(90000) | join('a' * 100000) }}",
    "replaced often": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "slow strip": "{{ ('a' * 500000).strip('b' * 400000 + 'a') }}",
    "slow search": "{{ ('a' * 500000).rfind('b' + 'a' * 90000) }}",
    "slow comparison": ("{% set x = [0] * 400000 %}{% set y = [0] * 400000 %}" + "{% if x == y %}{% endif %}" * 200),
    "slow test": "{% set x = [0] * 400000 %}" + "{% if 1 is in(x) %}{% endif %}" * 200,
    "slow sort": "{% set x = ('b,a,' * 50000).split(',') %}" + LOOP + "{% set y = x | sort %}" + END,
    "endless macro": MACRO + "{{ m() }}{% endmacro %}{{ m() }}",
    "branching macro": (MACRO + "{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}"),
    "endless recursion": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "branching recursion": (
        "{% for x in [1, 2] recursive %}{% if loop.depth < 50 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}"
    ),
    "macro of macros": MACRO + "{{ n }}" * 3000 + "{% endmacro %}{{ m(m(m(m('aaaa')))) }}",
    "deep parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "deep lists": "{{ " + "[" * 20_000 + "]" * 20_000 + " }}",
    "deep loops": "{% for i in [1] %}" * 1500 + "{% endfor %}" * 1500,
    "a long sum": "{{ " + "1+" * 3_000 + "1 }}",
    "a long path": "{{ a" + ".a" * 3_000 + " }}",
    "unfinished tags": "{{" * 30_000,
    "unfinished comments": "{#" * 30_000,
    "a huge number": "{{ " + "9" * 60_000 + " }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_end_soon(source: str) -> None:
    template = ChatTemplate(source, limit_s=0.1)
    start = time.monotonic()
    with pytest.raises(TemplateError):
        template.render(USER)
    assert time.monotonic() - start < 10  # single steps run on, and the machine may be busy


@pytest.mark.slow
def test_the_bound_on_time_is_two_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(TemplateError, match="more than 2 seconds"):
        render(HOSTILE["nested loops"])
    assert 2 <= time.monotonic() - start < 7


def test_hostile_templates_take_little_memory() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("repeated text", "text kept", "many large values", "macro of macros"):
        with pytest.raises(TemplateError):
            render(HOSTILE[name])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024 * (1024 if sys.platform == "darwin" else 1)
