"""The mutants of a Python source: one small change each, as a replacement of text.

The change is made in the text, at the place that the syntax tree names, so that every line keeps its number and the
report can show it. Not mutated: annotations, docstrings, strings with a blank in them (prose), what a ``raise`` says,
f-strings, blocks under ``TYPE_CHECKING``, ``__all__``, ``assert`` and the like (zip's ``strict``).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tools.mutation.code import without_comments

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a source.

    Attributes
    ----------
    file : str
        The source's path below the package.
    kind : str
        The operator: comparison, arithmetic, boolean, condition, negation, constant, return, keyword, statement.
    line, last_line : int
        The lines of the statement, or of its head, that is changed; from 1.
    text : str
        The first of these lines, stripped.
    start, stop : int
        The range of the replaced bytes in the source's UTF-8.
    after : str
        The text that replaces them.
    change : str
        A description of the change in one line.
    within : tuple of str
        Names of the classes and functions around it, outermost first.
    in_body : bool
        Whether it lies in a function's body; else it takes effect where the module is imported.
    """

    file: str
    kind: str
    line: int
    last_line: int
    text: str
    start: int
    stop: int
    after: str
    change: str
    within: tuple[str, ...]
    in_body: bool

    @property
    def key(self) -> str:
        """Return a name that no other mutant of the same source has."""
        return f"{self.file}:{self.line}:{self.start}: {self.change}"

    def apply(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[: self.start] + self.after.encode() + source[self.stop :]


def mutants(source: bytes, file: str, wanted: Callable[[Mutant], bool] = lambda _: True) -> list[Mutant]:
    """Return every mutant of a source that is wanted and compiles to different code."""
    walker = _Walker(source, file)
    walker.block(walker.tree.body)
    original = compiled(source, file)
    return [one for one in walker.found if wanted(one) and _changes(one, source, original)]


def compiled(source: bytes, name: str) -> Any:
    """Return the code object of the module, with asserts and docstrings kept."""
    return compile(source, name, "exec", dont_inherit=True, optimize=0)


def _changes(mutant: Mutant, source: bytes, original: Any) -> bool:
    try:
        code = compiled(mutant.apply(source), mutant.file)
    except (SyntaxError, ValueError):
        return False
    return bool(code != original)


class _Walker:
    """Visits a module statement by statement, and the expressions of each statement."""

    def __init__(self, source: bytes, file: str) -> None:
        self.found: list[Mutant] = []
        self.tree = ast.parse(source)
        self._file = file
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._within: tuple[str, ...] = ()
        self._functions = 0
        self._statement: ast.stmt = self.tree.body[0]
        self._last_line = 1

    def block(self, statements: list[ast.stmt]) -> None:
        for index, statement in enumerate(statements):
            if index == 0 and _is_docstring(statement):
                continue
            self._take(statement, alone=len(statements) == 1)

    def _take(self, node: ast.stmt, alone: bool) -> None:
        self._statement, self._last_line = node, _end_of_head(node)
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                self._definition(node)
            case ast.If() if _names(node.test) == {"TYPE_CHECKING"}:
                self.block(node.orelse)
            case ast.If() | ast.While():
                self._condition(node.test)
                self._expression(node.test)
                self.block(node.body)
                self.block(node.orelse)
            case ast.For():
                self._expression(node.iter)
                self.block(node.body)
            case ast.With():
                for item in node.items:
                    self._expression(item.context_expr)
                self.block(node.body)
            case ast.Try():
                for block in (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody):
                    self.block(block)
            case ast.Match():
                self._expression(node.subject)
                for one in node.cases:
                    self.block(one.body)
            case ast.Return(value=ast.expr() as value):
                if not (isinstance(value, ast.Constant) and value.value is None):
                    self._add("return", value, "None")
                self._expression(value)
            case ast.Raise():
                if not alone:
                    self._add("statement", node, "pass")
            case ast.Break() | ast.Continue():
                self._add("statement", node, "continue" if isinstance(node, ast.Break) else "break")
            case ast.Expr(value=value):
                if not isinstance(value, ast.Constant):
                    self._add("statement", node, "pass")
                    self._expression(value)
            case ast.AugAssign():
                swapped = copy.deepcopy(node)
                if type(node.op) in _ARITHMETIC:
                    swapped.op = _ARITHMETIC[type(node.op)]()
                    self._add("arithmetic", node, ast.unparse(swapped))
                self._add("statement", node, "pass")
                self._expression(node.value)
            case ast.Assign():
                if _names(*node.targets) & {"__all__", "__slots__"}:
                    return
                if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
                    self._add("statement", node, "pass")
                    for target in node.targets:
                        self._expression(target)
                self._expression(node.value)
            case ast.AnnAssign(value=ast.expr() as value):
                self._expression(value)
            case _:  # import, global, pass, assert
                return

    def _definition(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self._expression(decorator)
        if isinstance(node, ast.FunctionDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self._expression(default)
        else:
            for keyword in node.keywords:
                self._expression(keyword.value)
        self._within = (*self._within, node.name)
        self._functions += isinstance(node, ast.FunctionDef)
        self.block(node.body)
        self._functions -= isinstance(node, ast.FunctionDef)
        self._within = self._within[:-1]

    def _condition(self, test: ast.expr) -> None:
        """Negate a condition that no other operator negates."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            self._add("condition", test, f"not ({self._text(test)})")

    def _expression(self, node: ast.expr) -> None:
        for one in _expressions(node):
            for kind, place, after in _changes_of(one):
                self._add(kind, place, after)
            if isinstance(one, ast.IfExp):
                self._condition(one.test)
            if isinstance(one, ast.Call):
                self._keywords(one)

    def _keywords(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if _names(call.func) == {"zip"}:  # strict: it checks what never happens
                continue
            less = copy.copy(call)
            less.keywords = [other for other in call.keywords if other is not keyword]
            self._add("keyword", call, ast.unparse(less), f"{keyword.arg or '**'}=... left out")

    def _text(self, node: ast.AST) -> str:
        text = self._source[self._offset(node, "") : self._offset(node, "end_")].decode()
        return without_comments(text, self._file)

    def _offset(self, node: Any, which: str) -> int:
        line, column = getattr(node, which + "lineno"), getattr(node, which + "col_offset")
        return int(self._starts[line - 1] + column)

    def _add(self, kind: str, node: ast.AST, after: str, change: str = "") -> None:
        if kind not in ("statement", "return", "keyword", "constant") and isinstance(node, ast.expr):
            after = f"({after})"
        self.found.append(
            Mutant(
                file=self._file, kind=kind, line=self._statement.lineno, last_line=self._last_line,
                text=self._lines[node.lineno - 1].decode().strip(),  # type: ignore[attr-defined]
                start=self._offset(node, ""), stop=self._offset(node, "end_"), after=after,
                change=change or " ".join(f"{self._text(node)} -> {after}".split()),
                within=self._within, in_body=self._functions > 0,
            )
        )  # fmt: skip


def _changes_of(node: ast.expr) -> Iterator[tuple[str, ast.expr, str]]:
    """Yield the kinds of change that an expression itself allows, without its parts."""
    match node:
        case ast.Compare():
            for index, op in enumerate(node.ops):
                swapped = copy.copy(node)
                swapped.ops = [*node.ops[:index], _COMPARISONS[type(op)](), *node.ops[index + 1 :]]
                yield "comparison", node, ast.unparse(swapped)
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            swapped_op = copy.copy(node)
            swapped_op.op = _ARITHMETIC[type(node.op)]()
            yield "arithmetic", node, ast.unparse(swapped_op)
        case ast.BoolOp():
            other = copy.copy(node)
            other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "boolean", node, ast.unparse(other)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield "negation", node, ast.unparse(node.operand)
        case ast.Constant(value=bool() as value):
            yield "constant", node, repr(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", node, repr(value + 1 if value + 1 != value else value * 2)
        case ast.Constant(value=str() as value) if not any(map(str.isspace, value)):
            yield "constant", node, repr(value + "XX")
        case ast.Constant(value=bytes() as data):
            yield "constant", node, repr(data + b"XX")


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    """Yield an expression and those inside it, except f-strings, annotations and zip's ``strict``."""
    if isinstance(node, ast.JoinedStr):  # whose parts' places are wrong before Python 3.12
        return
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword):
            if not (isinstance(node, ast.Call) and _names(node.func) == {"zip"}):
                yield from _expressions(child.value)
        elif isinstance(child, ast.comprehension):
            for part in (child.iter, *child.ifs):
                yield from _expressions(part)
        elif isinstance(child, ast.expr):
            yield from _expressions(child)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _names(*nodes: ast.expr) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def _end_of_head(node: ast.stmt) -> int:
    """Return the last line of a statement, or of its part before the block."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        return max(node.lineno, min(statement.lineno for statement in body) - 1)
    return node.end_lineno or node.lineno
