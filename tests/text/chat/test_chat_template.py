"""Chat templates: what they write, what they refuse, and that hostile ones end soon."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rendering import USER, render

from miaotui.errors import ModelFormatError, RequestError, TemplateError
from miaotui.text.chat import ChatTemplate
from miaotui.text.templates.sources import chat_from_folder, chat_from_gguf

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


class TestConventions:
    """What templates written for transformers rely on."""

    def test_messages_and_generation_prompt(self) -> None:
        start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
        text = render(CHATML, TALK)
        assert text.startswith(start)
        assert text.endswith("three<|im_end|>\n<|im_start|>assistant\n")
        assert render(CHATML, TALK, add_generation_prompt=False).endswith("three<|im_end|>\n")

    def test_blocks_leave_no_whitespace(self) -> None:
        assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"

    def test_tokens_and_options(self) -> None:
        source = "{{ bos_token }}{{ eos_token }}{{ enable_thinking }}{{ unknown_name }}"
        assert render(source, enable_thinking=True) == "<s></s>True"

    def test_tojson_is_not_escaped_for_html(self) -> None:
        tool = {"name": "f", "b": ["<é>", 1.5, None, True], "a": "'"}
        assert render("{{ tools[0] | tojson }}", tools=[tool]) == json.dumps(tool, ensure_ascii=False)
        assert render("{{ tools[0] | tojson(indent=2) }}", tools=[tool]) == json.dumps(
            tool, ensure_ascii=False, indent=2
        )

    def test_raise_exception_is_the_callers_fault(self) -> None:
        source = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
        with pytest.raises(RequestError, match="no system"):
            render(source)
        assert render(source, TALK) == ""

    def test_strftime_now(self) -> None:
        assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year), str(datetime.now().year - 1)}

    def test_loop_controls_and_loop_variables(self) -> None:
        source = (
            "{% for m in messages %}{% if loop.index0 == 3 %}{% break %}{% endif %}"
            "{% if m.role == 'system' %}{% continue %}{% endif %}"
            "{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.previtem.role }} {% endfor %}"
        )
        assert render(source, TALK) == "2/4Falsesystem 3/4Falseuser "

    def test_recursive_and_filtered_loops(self) -> None:
        source = (
            "{% for x in [1, [2, [3]]] recursive %}"
            "{{ loop(x) if x is iterable else x }}{{ loop.depth }} {% endfor %}"
            "{% for m in messages if m.role == 'user' %}"
            "{{ m.content }}{{ loop.length }}{% endfor %}"
        )
        assert render(source, TALK) == "11 22 33 2 1 one2three2"

    def test_namespaces_macros_and_slices(self) -> None:
        source = (
            "{% set ns = namespace(n=0, parts=[]) %}"
            "{% macro wrap(text, ns) %}[{{ text }}{{ caller() if caller }}]{% endmacro %}"
            "{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}"
            "{% set ns.parts = ns.parts + [wrap(m['content'], ns)] %}{% endfor %}"
            "{{ ns.n }}{{ ns.parts | join('-') }}{{ 'abc'[::-1] }}{{ messages[-1].content[:2] }}"
            "{% call wrap('x', ns) %}y{% endcall %}"
        )
        assert render(source, TALK) == "3[one]-[two]-[three]cbath[xy]"

    def test_filters_and_methods(self) -> None:
        source = (
            "{{ messages | map(attribute='role') | unique | join(',') }};"
            "{{ messages | selectattr('role', 'equalto', 'user') | list | length }};"
            "{{ ' a '.strip() ~ 1 ~ none }};{{ 'a<b'.split('<')[-1] }};"
            "{{ 'x' | upper | indent(2, true) }};"
            "{{ {'k': 1, 'j': 2} | dictsort }};"
            "{% for k, v in {'k': 1}.items() %}{{ k }}{{ v }}{% endfor %};"
            "{{ '%s-%d' % ('a', 3) }};{{ '{}{}'.format(1, 'b') }};"
            "{{ ', '.join(['a', 'b'] | map('upper')) }};"
            "{{ [3, 1, 2] | sort | first }};{{ 'ab' | replace('b', 'c') }};{{ 1.26 | round(1) }}"
        )
        assert render(source, TALK) == (
            "system,user,assistant;2;a1None;b;  X;[('j', 2), ('k', 1)];k1;a-3;1b;A, B;1;ac;1.3"
        )

    def test_generation_marks_are_transparent(self) -> None:
        assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahib"

    def test_tool_template_is_for_tools(self) -> None:
        template = ChatTemplate({"default": "plain", "tool_use": "with {{ tools | length }}"})
        assert template.render(USER) == "plain"
        assert template.render(USER, tools=[{"name": "f"}]) == "with 1"

    def test_rendering_in_threads(self) -> None:
        template = ChatTemplate(CHATML)
        with ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda n: template.render(USER * n), range(1, 40)))
        assert texts == [render(CHATML, USER * n) for n in range(1, 40)]

    def test_a_long_conversation_is_no_attack(self) -> None:
        messages = [{"role": "user", "content": "word " * 200}] * 2000
        assert len(render(CHATML, messages)) > 2_000_000


class TestMessages:
    """What callers give."""

    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        source = "{{ messages[0].content }}"
        assert render(source, [{"role": "user", "content": parts}]) == "one\ntwo"

    def test_tool_calls_get_their_arguments_as_data(self) -> None:
        call = {"type": "function", "function": {"name": "f", "arguments": '{"city": "北京"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        source = "{{ messages[1].tool_calls[0].function.arguments | tojson }}"
        assert render(source, [*USER, message]) == '{"city": "北京"}'
        assert call["function"] == {"name": "f", "arguments": '{"city": "北京"}'}  # not changed

    @pytest.mark.parametrize(
        ("messages", "says"),
        [
            ([], "must not be empty"),
            ("hi", "must be a list"),
            ({"role": "user", "content": "hi"}, "must be a list"),
            (["hi"], r"messages\[0\]"),
            ([*USER, {"role": "robot", "content": "x"}], r"messages\[1\]: role must be one of"),
            ([{"content": "x"}], "role must be one of"),
            ([{"role": ["user"], "content": "x"}], "role must be one of"),
            ([{"role": "user"}], "content must be"),
            ([{"role": "user", "content": None}], "content must be"),
            ([{"role": "user", "content": b"x"}], "content must be"),
            ([{"role": "user", "content": 7}], "content must be"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "only text"),
            ([{"role": "user", "content": ["x"]}], "only text"),
            ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "only text"),
            ([{"role": "user", "content": "x", "extra": object()}], "JSON data"),
            ([{"role": "assistant", "tool_calls": [1]}], "tool call must be a dict"),
            ([{"role": "assistant", "tool_calls": [{"function": {"arguments": "[1"}}]}], "must be a JSON object"),
        ],
    )
    def test_wrong_messages(self, messages: Any, says: str) -> None:
        with pytest.raises(RequestError, match=says):
            render(CHATML, messages)

    def test_content_is_never_a_template(self) -> None:
        text = "{{ 7 * 7 }}{% for %}"
        assert text in render(CHATML, [{"role": "user", "content": text}])


class TestMissingAndFaulty:
    """Templates that cannot be used at all."""

    def test_no_template_names_the_remedy(self) -> None:
        template = ChatTemplate(None)
        assert not template.available
        with pytest.raises(TemplateError, match="generate from a plain prompt"):
            template.render(USER)

    def test_no_plain_template(self) -> None:
        with pytest.raises(TemplateError, match="tool_use only"):
            ChatTemplate({"tool_use": "x"}).render(USER)

    def test_syntax_error_names_the_line(self) -> None:
        with pytest.raises(TemplateError, match="at line 2"):
            render("ok\n{% endfor %}")

    def test_too_long(self) -> None:
        with pytest.raises(TemplateError, match="65,536"):
            render("x" * 70_000)

    @pytest.mark.parametrize(
        "source",
        [
            "{{ messages[0].content + 1 }}",
            "{{ messages[7].content }}",
            "{{ nothing.at.all }}",
            "{{ nothing() }}",
            "{% include 'other' %}",
            "{{ 1 // 0 }}",
            "{% for a in none %}{% endfor %}",
            "{{ messages | tojson(default=1) }}",
            "{{ 'a' | replace('b') }}",
        ],
    )
    def test_failures_are_template_errors(self, source: str) -> None:
        with pytest.raises(TemplateError, match=r"use another template"):
            render(source)


def test_jinja_is_imported_late() -> None:
    code = "import sys, miaotui.text; sys.exit('jinja2' in sys.modules or 'tokenizers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestSources:
    """Where templates are found."""

    TOKENS = {  # noqa: RUF012
        "tokenizer.ggml.tokens": ["<s>", "</s>", "a"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }

    def test_gguf(self) -> None:
        template = chat_from_gguf(
            self.TOKENS
            | {
                "tokenizer.chat_template": "{{ bos_token }}plain{{ eos_token }}",
                "tokenizer.chat_template.tool_use": "tools",
                "tokenizer.chat_templates": ["tool_use"],
            }
        )
        assert template.render(USER) == "<s>plain</s>"
        assert template.render(USER, tools=[{}]) == "tools"

    def test_gguf_without(self) -> None:
        assert not chat_from_gguf(self.TOKENS).available
        assert not chat_from_gguf({}).available

    def test_gguf_damaged(self) -> None:
        with pytest.raises(ModelFormatError, match="chat_template"):
            chat_from_gguf(self.TOKENS | {"tokenizer.chat_template": 7})

    def test_folder(self, tmp_path: Path) -> None:
        assert not chat_from_folder(tmp_path).available
        config: dict[str, Any] = {
            "bos_token": {"content": "<b>"},
            "eos_token": "<e>",
            "chat_template": [
                {"name": "default", "template": "{{ bos_token }}json{{ eos_token }}"},
                {"name": "tool_use", "template": "json tools"},
            ],
        }
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps(config))
        assert chat_from_folder(tmp_path).render(USER) == "<b>json<e>"
        assert chat_from_folder(tmp_path).render(USER, tools=[{}]) == "json tools"
        (tmp_path / "chat_template.jinja").write_text("own file")
        assert chat_from_folder(tmp_path).render(USER) == "own file"
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("own tools")
        assert chat_from_folder(tmp_path).render(USER, tools=[{}]) == "own tools"

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"chat_template": 7}', "[" * 100_000, "\xff"])
    def test_folder_damaged(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "tokenizer_config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ModelFormatError, match=r"tokenizer_config\.json"):
            chat_from_folder(tmp_path)
