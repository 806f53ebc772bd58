"""Templates that reach for Python's inside, go on for ever or grow without bound are stopped."""

from __future__ import annotations

import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tektra.errors import TemplateError, TemplateLimitError
from tektra.tokenizer import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]
MACRO = "{% macro m() %}{% endmacro %}"

REACHING = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('__cla' ~ 'ss__') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ (1).__class__ }}{{ none.__class__ }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__getitem__ }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='content.__class__')|list }}",
    "{{ ['']|map('attr', '__class__')|list }}",
    "{{ [{}]|groupby('__class__') }}",
    "{{ [1, 2]|sort(attribute='__class__') }}",
    "{{ [1, 2]|sum(attribute='__class__') }}",
    "{{ [1, 2]|unique(attribute='__class__')|list }}",
    "{{ messages|selectattr('__class__')|list }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0[__class__]}'.format('') }}",
    "{{ '{a.__init__.__globals__}'.format(a=cycler) }}",
    "{{ '{0.content}'.format(messages[0]) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ ''.format.__self__ }}",
    "{{ ''.join.__func__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ lipsum() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ cycler(1).__init__ }}",
    "{{ joiner().__init__ }}",
    "{{ namespace.__init__ }}",
    "{{ namespace().__class__ }}",
    "{% set ns = namespace(_Namespace__attrs=1) %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ range.__class__ }}",
    "{{ range(3).__class__ }}",
    "{{ dict.__base__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop._iterator }}{% endfor %}",
    MACRO + "{{ m.__globals__ }}",
    MACRO + "{{ m._func }}",
    "{{ cycler }}",
    "{{ [cycler]|string }}",
    "{{ '%s'|format(cycler) }}",
    "{{ namespace() }}",
    "{{ [namespace()]|tojson }}",
    MACRO + "{{ m }}",
    MACRO + "{{ [m] ~ '' }}",
    "{{ messages|map('upper') }}",
    "{{ messages.append(1) }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({}) }}",
    "{{ messages[0].clear() }}",
    "{{ messages[0].setdefault('a', 1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends 'x' %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% do messages.append(1) %}",
    "{{ request.application }}",
    "{{ ''.encode() }}",
    "{{ ''.translate({}) }}",
    "{{ messages[0]() }}",
    "{{ 'x'() }}",
]


@pytest.mark.parametrize("source", REACHING)
def test_reaching_is_refused(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source).render(HELLO)
    assert not isinstance(caught.value, TemplateLimitError)
    assert "0x" not in str(caught.value)


def test_nothing_outside_is_touched(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    opens = "__builtins__['open']('CANARY', 'w').write('x')".replace("CANARY", str(canary))
    roots = ["cycler.__init__", "lipsum", "joiner.__init__", "namespace.__init__", "self.__init__"]
    sources = [f"{{{{ {root}.__globals__.{opens} }}}}" for root in roots]
    sources += [f"{{{{ {root}.__globals__['os'].system('touch {canary}') }}}}" for root in roots]
    sources.append(
        "{% for c in ''.__class__.__base__.__subclasses__() %}"
        f"{{% if c.__name__ == 'Popen' %}}{{{{ c(['touch', '{canary}']) }}}}{{% endif %}}"
        "{% endfor %}"
    )
    happened: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect"):
            happened.append(event)

    sys.addaudithook(hook)
    try:
        for source in sources:
            with pytest.raises(TemplateError):
                ChatTemplate(source).render(HELLO)
    finally:
        watching[0] = False
    assert not canary.exists()
    assert happened == []


def grown(step: str, start: str = "'aaaaaaaaaa'") -> str:
    """A template that applies a step to its own result again and again."""
    steps = f"{{% for i in range(99) %}}{{% set ns.s = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(s={start}) %}}{steps}"


TWINS = (
    "{% set ns = namespace(s=(1,), t=(1,)) %}{% for i in range(99) %}"
    "{% set ns.s = (ns.s, ns.s) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
GROWING = [
    "{{ 'a' * 10**10 }}",
    "{{ 10**10 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ (1,) * 10**9 }}",
    "{{ 10**100000 }}",
    "{{ 'a'|center(10**9) }}",
    "{% if 'a'|center(10**9) %}{% endif %}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.rjust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ 'a'|indent(10**9) }}",
    "{{ [1]|batch(10**9, 1)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ 1.5|round(10**9, 'floor') }}",
    "{{ {'a': [1]}|tojson(indent=10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f' % 1 }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:>1000000000}'.format('a') }}",
    "{{ range(10**12) }}",
    "{{ range(100000)|map('string')|map('center', 100000)|list|length }}",
    "{{ (range(100000)|list * 40)|sort|length }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    "{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "{% set x %}{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}{% endset %}",
    "{% set x = 'a' * 1000000 %}" + "{% set y = x[1:] %}" * 50,
    "{% set x = [1] * 100000 %}" + "{% set y = x[1:] %}" * 50,
    "{% set x = 'ab' * 1000000 %}" + "{% set y = x.split('b') %}" * 50,
    grown("ns.s ~ ns.s"),
    grown("ns.s + ns.s"),
    grown("ns.s + ns.s", "[1]"),
    grown("ns.s.replace('a', 'aa')"),
    grown("ns.s|replace('a', 'aa')"),
    grown("[ns.s, ns.s]|join"),
    grown("ns.s.join([ns.s, ns.s])"),
    grown("'%s%s' % (ns.s, ns.s)"),
    grown("'%s%s'|format(ns.s, ns.s)"),
    grown("'{0}{0}'.format(ns.s)"),
    grown("[ns.s, ns.s]", "[1]") + "{{ ns.s }}",
    grown("[ns.s, ns.s]", "[1]") + "{{ ns.s|tojson }}",
    grown("[ns.s, ns.s]", "[1]") + "{{ ns.s|string }}",
    grown("{'a': ns.s, 'b': ns.s}", "{}") + "{{ ns.s ~ '' }}",
    grown("(ns.s, ns.s)", "(1,)") + "{{ messages[0].get(ns.s) }}",
    grown("(ns.s, ns.s)", "(1,)") + "{{ ns.s in messages[0] }}",
    grown("(ns.s, ns.s)", "(1,)") + "{{ [ns.s, 1]|unique|list }}",
    TWINS + "{{ ns.s == ns.t }}",
    TWINS + "{{ ns.s is eq ns.t }}",
    TWINS + "{{ ns.s in [ns.t] }}",
    TWINS + "{{ [ns.s]|select('eq', ns.t)|list|length }}",
    TWINS + "{{ [ns.s].index(ns.t) }}",
    TWINS + "{{ [ns.s, ns.t]|sort }}",
    TWINS + "{{ ns.s is lower }}",
    TWINS + "{{ ns.s|upper }}",
    TWINS + "{% for i in [ns.s, ns.t] %}{{ loop.changed(i) }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
]


@pytest.mark.parametrize("source", GROWING)
def test_growing_is_stopped(source: str) -> None:
    template = ChatTemplate(source)
    began, threads = time.process_time(), threading.active_count()
    with pytest.raises(TemplateLimitError):
        template.render(HELLO)
    # The limit is 2 s of work; a loaded machine may take longer over the last piece of it.
    assert time.process_time() - began < 6
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
        "{% set x = 'ab' * 1000000 %}" + "{% set y = x.split('b') %}" * 50,
        "{% set x = 'a' * 1000000 %}" + "{% set y = x[1:] %}" * 50,
        "{% set x = [1] * 100000 %}" + "{% set y = x[1:] %}" * 50,
        grown("ns.s ~ ns.s"),
        grown("ns.s + ns.s", "[1]"),
    ],
)
def test_memory_stays_bounded(source: str) -> None:
    template = ChatTemplate(source)
    tracemalloc.start()
    try:
        with pytest.raises(TemplateLimitError):
            template.render(HELLO)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000_000


COMPILING = [
    "{{ " + "(" * 60_000 + "1" + ")" * 60_000 + " }}",
    "{{ " + "[" * 60_000 + "1" + "]" * 60_000 + " }}",
    "{{ 1" + "+1" * 60_000 + " }}",
    "{{ " + "not " * 30_000 + "1 }}",
    "{{ " + "-" * 100_000 + "1 }}",
    "{{ a" + ".b" * 60_000 + " }}",
    "{{ 1" + "|e" * 60_000 + " }}",
    "{{ 1" + " if 1" * 20_000 + " }}",
    "{% if 1 %}" * 12_000,
    "{% for x in y %}" * 30 + "{% endfor %}" * 30,
    "{% if a %}" + "{% elif b %}" * 10_000 + "{% endif %}",
    "{{a}}" * 25_000,
    "{{ " + "9" * 100_000 + " }}",
    "{#" * 60_000,
    "{%" * 60_000,
    "{{" * 60_000,
    "{% raw %}" * 14_000,
    "{{ '" + "\\'" * 60_000,
]


@pytest.mark.parametrize("source", COMPILING, ids=lambda source: source[:12])
def test_bombs_for_the_compiler_are_refused(source: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateError):
        ChatTemplate(source)
    assert time.process_time() - began < 6


def test_long_conversations_are_within_the_limits(templates: dict[str, str]) -> None:
    turn = [
        {"role": "user", "content": "word " * 200},
        {"role": "assistant", "content": "ok " * 99},
    ]
    messages = [*(turn * 500), *HELLO]
    for name in ("chatml", "llama3", "qwen", "gemma", "phi"):
        text = ChatTemplate(templates[name], bos_token="", eos_token="").render(messages)
        assert len(text) > 500 * 1290
    big = [{"role": "user", "content": "x" * 5_000_000}]
    assert len(ChatTemplate(templates["llama3"], bos_token="").render(big)) > 5_000_000
