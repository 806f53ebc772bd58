"""Templates render what transformers renders from them; messages and templates are checked."""

from __future__ import annotations

from typing import Any

import pytest

from tektra.errors import InvalidParameterError, TemplateError
from tektra.tokenizer import ChatTemplate, default_template, find_templates

NAMES = ("chatml", "llama3", "qwen", "mistral", "gemma", "phi", "features")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("name", NAMES)
def test_renders_as_transformers_does(
    name: str, templates: dict[str, str], goldens: dict[str, Any]
) -> None:
    golden = goldens["rendered"]
    template = ChatTemplate(templates[name], bos_token="<s>", eos_token="</s>")
    cases = [case[1:] for case in golden["cases"] if case[0] == name]
    assert len(cases) == 20
    assert any(expected is not None for _, _, expected in cases)
    for conversation, number, expected in cases:
        messages, options = golden["conversations"][conversation], golden["options"][number]
        if expected is None:
            with pytest.raises(TemplateError):
                template.render(messages, **options)
        else:
            assert template.render(messages, **options) == expected


def test_messages_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    ChatTemplate("{% for m in messages %}{{ m.content[0].text }}{% endfor %}").render(messages)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "x"}]}]


def test_tokens_that_a_model_lacks_are_undefined() -> None:
    assert ChatTemplate("[{{ bos_token }}{{ eos_token }}]").render(HELLO) == "[]"


def test_what_a_template_refuses_is_told() -> None:
    template = ChatTemplate("ok\n{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(TemplateError, match="Roles must alternate"):
        template.render(HELLO)


def test_time_is_written_without_widths() -> None:
    assert ChatTemplate("{{ strftime_now('%Y')|length }}").render(HELLO) == "4"
    assert len(ChatTemplate("{{ strftime_now('%-d %b %Y, %H:%M') }}").render(HELLO)) > 12


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "line 1"),
        ("\n\n{{ a b }}", "line 3"),
        ("{% for x in y %}", "for"),
        ("{{ x|nosuchfilter }}", "nosuchfilter"),
        ("{% nosuchtag %}", "nosuchtag"),
        ("x" * 200_000, "characters"),
    ],
)
def test_malformed_templates_are_refused(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n{{ nothing.there }}", "line 2.*'nothing' is undefined"),
        ("{{ 1 / 0 }}", "zero"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ [1]|first + none }}", "NoneType"),
    ],
)
def test_failing_templates_say_where(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source).render(HELLO)


@pytest.mark.parametrize(
    ("messages", "name"),
    [
        ("text", r"^messages:"),
        (3, r"^messages:"),
        ({"role": "user", "content": "x"}, r"^messages:"),
        (["text"], r"^messages\[0\]:"),
        ([*HELLO, {"content": "x"}], r"^messages\[1\]\.role:"),
        ([*HELLO, *HELLO, {"role": 3, "content": "x"}], r"^messages\[2\]\.role:"),
        ([{"role": "", "content": "x"}], r"^messages\[0\]\.role:"),
        ([{"role": "user", "content": 3}], r"^messages\[0\]\.content:"),
        ([{"role": "user", "content": {"type": "text"}}], r"^messages\[0\]\.content:"),
        ([{"role": "user", "content": b"x"}], r"^messages\[0\]\.content:"),
        ([{"role": "user", "content": ["x"]}], r"^messages\[0\]\.content\[0\]:"),
        ([{"role": "user", "content": [{"text": "x"}]}], r"^messages\[0\]\.content\[0\]\.type:"),
        ([{"role": "user", "content": "x", "extra": object()}], r"^messages\[0\]\.extra:"),
        ([{"role": "user", "content": "x", "extra": {3: 4}}], r"^messages\[0\]\.extra:"),
        ([{"role": "user", "content": "x", "extra": 1 << 2000}], r"^messages\[0\]\.extra:"),
    ],
)
def test_wrong_messages_are_named(messages: Any, name: str) -> None:
    with pytest.raises(InvalidParameterError, match=name):
        ChatTemplate("x").render(messages)


def test_nesting_of_messages_is_limited() -> None:
    value: Any = "x"
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidParameterError, match="levels deep"):
        ChatTemplate("x").render([{"role": "user", "content": "x", "extra": value}])
    with pytest.raises(InvalidParameterError, match="tools"):
        ChatTemplate("x").render(HELLO, tools=[{"f": print}])
    with pytest.raises(InvalidParameterError, match="helper"):
        ChatTemplate("x").render(HELLO, helper=len)


def test_templates_of_a_file() -> None:
    metadata = {
        "tokenizer.chat_template": "A",
        "tokenizer.chat_template.tool_use": "B",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.ggml.model": "gpt2",
    }
    found = find_templates(metadata)
    assert found == {"default": "A", "tool_use": "B"}
    assert default_template(found) == "A"
    assert default_template(found, "tool_use") == "B"
    assert default_template({"only": "C"}) == "C"
    with pytest.raises(TemplateError, match="default, tool_use"):
        default_template(found, "absent")
    with pytest.raises(TemplateError, match="name one of: a, b"):
        default_template({"a": "", "b": ""})
    with pytest.raises(TemplateError, match="--raw"):
        default_template({})
    with pytest.raises(TemplateError, match="expected text"):
        find_templates({"tokenizer.chat_template": 3})
