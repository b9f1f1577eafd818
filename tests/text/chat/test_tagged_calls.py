"""Tool calls between marks: written, found by a trial of the template, and read however the text is split."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.text.chat import ChatTemplate
from miaotui.text.templates.trial import try_template
from miaotui.text.tool_calls import formats, tagged
from miaotui.text.tool_calls.dialect import Dialect, dialect_of
from miaotui.text.tool_calls.formats import AnyFormat
from miaotui.text.tool_calls.parser import CallArguments, CallBegins, Event, TextPiece, ToolCallParser
from miaotui.text.tool_calls.placement import placed
from miaotui.text.tool_calls.tagged import TAGGED, TaggedFormat

NAMES = ("f", "weather", "a.b_c")
STRINGS = dict.fromkeys(NAMES, ("city", "note"))
ARGUMENTS: dict[str, Any] = {"city": "Paris", "days": [1, {"x": None}], "note": 'a\nb "c" 5', "n": 2.5, "ok": True}
OBJECTS = (formats.PHI4, formats.TOOL_CALLS, formats.NEMOTRON, formats.COMMAND_R)
ALL: tuple[AnyFormat, ...] = (*TAGGED, *OBJECTS)
every = pytest.mark.parametrize("form", ALL, ids=lambda form: form.begin)


def read(form: AnyFormat, pieces: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    """The text, and each call's name and arguments."""
    parser = ToolCallParser(form, NAMES, STRINGS)
    events: list[Event] = [event for piece in pieces for event in parser.push(piece)] + parser.finish()
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, CallBegins):
            calls.append((event.name, ""))
        elif isinstance(event, CallArguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    text = "".join(event.text for event in events if isinstance(event, TextPiece))
    return text, [(name, json.loads(arguments)) for name, arguments in calls]


def written(form: AnyFormat, *names: str) -> str:
    assert form.again is not None
    return form.begin + form.open + form.again.join(form.write(name, ARGUMENTS) for name in names) + form.close


@every
def test_what_is_written_is_read(form: AnyFormat) -> None:
    for names in (NAMES[:1], NAMES):
        assert read(form, [written(form, *names)]) == ("", [(name, ARGUMENTS) for name in names])
    text, calls = read(form, ["Let me see.\n" + written(form, "f")])
    assert (text, calls) == ("Let me see.", [("f", ARGUMENTS)])


@every
def test_a_function_that_was_not_declared_is_text(form: AnyFormat) -> None:
    text = written(form, "unknown")
    assert read(form, [text]) == (text, [])


@pytest.mark.parametrize("form", TAGGED, ids=lambda form: form.begin)
def test_a_call_cut_short_is_text(form: TaggedFormat) -> None:
    cut = written(form, "f")[:-1]
    assert read(form, [cut]) == (cut, [])


@given(
    form=st.sampled_from(ALL),
    parts=st.lists(
        st.sampled_from(["call", "text", "\n", "<", "{", '"', "</", "[", "]", "}", "begin", "close"]), max_size=5
    ),
    cuts=st.lists(st.integers(0, 600), max_size=8),
)
def test_any_split_gives_the_same(form: AnyFormat, parts: list[str], cuts: list[int]) -> None:
    special = {"call": written(form, "f"), "begin": form.begin, "close": form.close}
    text = "".join(special.get(part, part) for part in parts)
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    expected = read(form, [text])
    assert read(form, [text[a:b] for a, b in itertools.pairwise(places)]) == read(form, list(text)) == expected
    if not expected[1]:
        assert expected[0] == text


@given(form=st.sampled_from(TAGGED), body=st.text(alphabet='fw(){}[]<>/="\\:, \n0ak|', max_size=60))
def test_hostile_stretches_are_read_or_given_back(form: TaggedFormat, body: str) -> None:
    text = form.begin + body
    found, calls = read(form, [text])
    assert calls or found == text


def test_values_are_text_where_the_schema_says_so_and_json_elsewhere() -> None:
    call = "<tool_call>\n<function=f>\n<parameter=note>\n5\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>\n"
    assert read(tagged.QWEN_CODER, [call + "</tool_call>"]) == ("", [("f", {"note": "5", "n": 5})])


def test_forms_that_models_vary() -> None:
    variants: list[tuple[AnyFormat, str]] = [
        (tagged.MISTRAL_ARGS, '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"city": "}{"}'),
        (tagged.KIMI, written(tagged.KIMI, "f").replace(":0", ":12").replace(json.dumps(ARGUMENTS), '{"city": "}{"}')),
        (
            tagged.DEEPSEEK_V31,
            "<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>f<｜tool▁sep｜>"
            '{"city": "}{"}<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>',
        ),
        (tagged.LFM, "<|tool_call_start|>[f(city='}{')]<|tool_call_end|>"),
        (tagged.GLM, "<tool_call>f<arg_key>city</arg_key><arg_value>}{</arg_value></tool_call>"),
    ]
    for form, text in variants:
        found = read(form, [text])
        assert found == ("", [("f", {"city": "}{"})]) or form is tagged.KIMI, form
    assert read(tagged.KIMI, [written(tagged.KIMI, "f").replace(":0", ":12")]) == ("", [("f", ARGUMENTS)])


@pytest.mark.parametrize(
    "body",
    [
        "f(__import__('os'))",
        "f(city=open('x'))",
        "f(1)",
        "f(**{})",
        "f(city=1, city=2)",
        "f(city=(1,2))",
        "f",
        "f(",
        "1",
    ],
)
def test_python_is_read_and_never_run(body: str) -> None:
    text = f"<|tool_call_start|>[{body}]<|tool_call_end|>"
    assert read(tagged.LFM, [text]) == (text, [])


@pytest.mark.parametrize(
    "body",
    [
        "f{city:}",
        "f{city:Paris}",
        'f{city:<|"|>Paris}',
        'f{city:<|"|>a<|"|>,city:1}',
        "f{n:1,}",
        "f{:1}",
        "f{n:[1,]}",
        "f{n:{a:1}",
        "f{n:01}",
        "f{n:" + "[" * 100 + "]" * 100 + "}",
        "f{n:NaN}",
    ],
)
def test_bare_values_that_are_none_are_text(body: str) -> None:
    text = f"<|tool_call>call:{body}<tool_call|>"
    assert read(tagged.GEMMA4, [text]) == (text, [])


def test_bare_values_of_every_kind() -> None:
    values = {"a": [], "b": {}, "c": [{"d": "x, y: {z}"}, [None, False]], "e": -1.5e3, "f": ""}
    text = f"<|tool_call>{tagged.GEMMA4.write('f', values)}<tool_call|>"
    assert read(tagged.GEMMA4, [text]) == ("", [("f", values)])
    assert read(tagged.GEMMA4, [text.replace(":", ": ").replace("call: ", "call:")])[1][0][1]["e"] == -1500


def test_results_go_where_gemma_4_has_them() -> None:
    """Its template writes results as parts of the message that called, one after the other, each with its name."""
    mark = '<|"|>'
    brace, end = '{{ "{" }}', '{{ "}" }}'
    arguments = f"{{% for k, v in c.function.arguments.items() %}}{{{{ k }}}}:{mark}{{{{ v }}}}{mark}{{% endfor %}}"
    call = f"<|tool_call>call:{{{{ c.function.name }}}}{brace}{arguments}{end}<tool_call|>"
    response = f"response:{{{{ r.name }}}}{brace}value:{mark}{{{{ r.response }}}}{mark}{end}"
    source = (
        "{% for t in tools or [] %}<|tool>{{ t.function.name }}{{ t.function.description }}<tool|>{% endfor %}"
        "{% for m in messages %}<|turn>{{ m.role }}"
        f"{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}"
        f"{{% for r in m.tool_responses or [] %}}<|tool_response>{response}<tool_response|>{{% endfor %}}"
        "{{ m.content }}<turn|>{% endfor %}"
    )
    traits = try_template(ChatTemplate(source))
    dialect = dialect_of(traits)
    assert traits.responses
    assert dialect == Dialect(tagged.GEMMA4, native=True)
    calls = [{"id": key, "function": {"name": name, "arguments": {}}} for key, name in (("1", "f"), ("2", "weather"))]
    talk: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "mild", "tool_call_id": "2"},
        {"role": "tool", "content": "done"},
        {"role": "user", "content": "!"},
    ]
    messages, _ = placed(talk, [{"function": {"name": "f"}}], traits, dialect)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["tool_responses"] == [
        {"name": "weather", "response": "mild"},
        {"name": "weather", "response": "done"},
    ]
    assert "tool_responses" not in talk[1]


def template_of(form: AnyFormat, tools: bool = True) -> ChatTemplate:
    """A template that writes calls in a form."""

    def said(text: str) -> str:
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"

    if isinstance(form, TaggedFormat):
        arguments = "{{ c.function.arguments | tojson }}"
        if form.marks is not None:
            each = said(form.marks.before_key) + "{{ k }}" + said(form.marks.after_key) + "{{ v }}"
            arguments = (
                f"{{% for k, v in c.function.arguments.items() %}}{each}{said(form.marks.after_value)}{{% endfor %}}"
            )
        elif form.quote:
            mark = said(form.quote)
            arguments = (
                f"{{% for k, v in c.function.arguments.items() %}}{{{{ k }}}}:{mark}{{{{ v }}}}{mark}{{% endfor %}}"
            )
        elif form.pythonic:
            arguments = "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}{% endfor %}"
        call = said(form.before) + "{{ c.function.name }}" + said(form.after) + arguments + said(form.end)
    else:
        call = (
            f'{{"{form.name_key}": "{{{{ c.function.name }}}}", "{form.key}": {{{{ c.function.arguments | tojson }}}}}}'
        )
    calls = (
        "{% for c in m.tool_calls or [] %}" + said(form.begin + form.open) + call + said(form.close) + "{% endfor %}"
    )
    source = ("{{ tools | tojson }}" if tools else "") + "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    return ChatTemplate(source + calls + "{% endfor %}")


@every
def test_a_trial_of_the_template_tells_the_form(form: AnyFormat) -> None:
    assert dialect_of(try_template(template_of(form))) == Dialect(form, native=True)


def test_a_form_without_a_place_for_tools_is_used_with_the_tools_told_as_text() -> None:
    """As DeepSeek's templates have it."""
    assert dialect_of(try_template(template_of(tagged.DEEPSEEK_V31, tools=False))) == Dialect(
        tagged.DEEPSEEK_V31, native=False
    )


def test_a_declaration_is_no_call() -> None:
    """A template that writes tools as JSON and calls in an unknown form is asked for the generic one."""
    source = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    source += "CALL {{ c.function.name }} WITH {{ c.function.arguments.values() | list }}{% endfor %}{% endfor %}"
    assert dialect_of(try_template(ChatTemplate(source))) == Dialect(formats.GENERIC, native=False)
