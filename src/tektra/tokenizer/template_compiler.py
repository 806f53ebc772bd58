"""Compiles templates so that each block, operator and slice goes through the sandbox.

Jinja lets a sandbox see calls, attributes and some operators. This sees to the rest: loops and
literal text, joining, comparing, slicing, and the keys of dicts. What those cost is in the
sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser

from tektra.errors import TemplateError, TemplateLimitError

# Published templates have some hundreds to a few thousand nodes; compiling takes 0.1 ms for each.
_MAX_NODES: Final = 20_000

__all__ = ["GenerationTag", "MeteredCodeGenerator", "refuse_unsupported"]

_UNSUPPORTED: Final[Mapping[type[nodes.Node], str]] = MappingProxyType(
    {
        nodes.Extends: "extends",
        nodes.Include: "include",
        nodes.Import: "import",
        nodes.FromImport: "from",
        nodes.ScopedEvalContextModifier: "autoescape",
    }
)


class GenerationTag(Extension):
    """``{% generation %}``: marks what a model said, for training. Renders as its content."""

    tags = {"generation"}  # noqa: RUF012  (an attribute that Jinja defines)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def refuse_unsupported(template: nodes.Template) -> None:
    """Refuses statements that reach for other templates or change how text is written.

    Raises:
        TemplateError: there is one; names it and its line.
        TemplateLimitError: the template has too many parts.
    """
    count, stack = 0, [template.body]
    while stack:
        for node in stack.pop():
            count += 1
            if count > _MAX_NODES:
                raise TemplateLimitError(f"the chat template has more than {_MAX_NODES} parts")
            name = _UNSUPPORTED.get(type(node))
            if name is not None:
                raise TemplateError(
                    f"line {node.lineno}: {{% {name} %}} is not allowed in a chat template"
                )
            stack.append(list(node.iter_child_nodes()))


class MeteredCodeGenerator(CodeGenerator):
    """Jinja's code generator, with hooks into `MeteredEnvironment`."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        nodes = list(nodes)
        self.writeline(f"environment.enter_block(context, {_literal_chars(nodes)})")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_parts(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("environment.compare(context, ")
        self.visit(node.expr, frame)
        for operand in node.ops:
            self.write(f", ({operand.op!r}, ")
            self.visit(operand.expr, frame)
            self.write(")")
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.slice(context, ")
        self.visit(node.node, frame)
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if part is None:
                self.write("None")
            else:
                self.visit(part, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self.write("environment.key(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")


def _literal_chars(block: Iterable[nodes.Node]) -> int:
    """Characters that a block writes whenever it is entered, blocks inside it not counted."""
    return sum(
        len(part.data)
        for node in block
        if isinstance(node, nodes.Output)
        for part in node.nodes
        if isinstance(part, nodes.TemplateData)
    )
