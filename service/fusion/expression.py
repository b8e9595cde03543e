"""Parses and computes the expressions of fusion formulas: Python's arithmetic over named columns, by numpy.

An expression may contain numbers, names, `+ - * / **`, signs, brackets, the functions below, and comparisons of two
values, which give 1 or 0. An expression becomes a tree of numpy calls; it is never run as Python code.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from features.nearest import nearest

Values = Mapping[str, np.ndarray]
_Step = Callable[[Values], np.ndarray]
_MAX_CHARACTERS = 1000
_MAX_NODES = 200
_MAX_DEPTH = 40
_REMEMBERED = 256  # as many as a document may have, and some


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def _where(condition: np.ndarray, then: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(condition != 0, then, otherwise))


FUNCTIONS: Mapping[str, tuple[int, Callable[..., np.ndarray]]] = {
    "abs": (1, np.abs),
    "clip": (3, lambda x, low, high: np.minimum(np.maximum(x, low), high)),
    "exp": (1, np.exp),
    "expm1": (1, np.expm1),
    "log": (1, np.log),
    "log1p": (1, np.log1p),
    "max": (2, np.maximum),
    "min": (2, np.minimum),
    "sigmoid": (1, _sigmoid),
    "sqrt": (1, np.sqrt),
    "tanh": (1, np.tanh),
    "where": (3, _where),
}
_BINARY: Mapping[type[ast.operator], Callable[..., np.ndarray]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[..., np.ndarray]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


class ExpressionError(ValueError):
    """An expression that is not valid; `column` counts from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")
        self.column = column


@dataclass(frozen=True, eq=False)
class Expression:
    """A parsed expression: its names, the column where each is first used, and how to compute it."""

    text: str
    names: Mapping[str, int]
    step: _Step

    def compute(self, values: Values, count: int) -> np.ndarray:
        """Compute float64 `[count]` from one column per name.

        An undefined result (0/0, the root of a negative number) is NaN.
        """
        with np.errstate(all="ignore"):
            return np.array(np.broadcast_to(self.step(values), (count,)), dtype=np.float64)


# A change parses each formula of its document at the check, the trial and the binding to each version. The objects of
# a large document would keep the garbage collector busy, which holds the interpreter.
@lru_cache(maxsize=_REMEMBERED)
def parse(text: str) -> Expression:
    """Parse an expression. Raises ExpressionError with the column of the first part that is not allowed."""
    if len(text) > _MAX_CHARACTERS:
        raise ExpressionError(_MAX_CHARACTERS + 1, f"an expression has at most {_MAX_CHARACTERS} characters")
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(error.offset or 1, f"not an expression: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(1, f"not an expression: {error}") from None
    if sum(1 for _ in ast.walk(tree)) > 2 * _MAX_NODES:
        raise ExpressionError(1, f"an expression has at most {_MAX_NODES} parts")
    names: dict[str, int] = {}
    try:
        return Expression(text, names, _built(tree, names, 0))
    except RecursionError:
        raise ExpressionError(1, f"nested deeper than {_MAX_DEPTH}") from None


def _column(node: ast.expr) -> int:
    return node.col_offset + 1


def _built(node: ast.expr, names: dict[str, int], depth: int) -> _Step:
    """Return the step that computes a node. Raises ExpressionError."""
    if depth > _MAX_DEPTH:
        raise ExpressionError(_column(node), f"nested deeper than {_MAX_DEPTH}")
    match node:
        case ast.Constant(value=bool() | str() | bytes() | complex() | None):
            raise ExpressionError(_column(node), f"{node.value!r} is not a number")
        case ast.Constant(value=int() | float() as value):
            return _constant(value, node)
        case ast.Name(id=name):
            if name in FUNCTIONS:
                raise ExpressionError(_column(node), f"{name} is a function: {name}(...)")
            names.setdefault(name, _column(node))
            return lambda values: values[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            inner = _built(operand, names, depth + 1)
            return (lambda values: np.negative(inner(values))) if isinstance(sign, ast.USub) else inner
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _applied(_BINARY[type(op)], [_built(x, names, depth + 1) for x in (left, right)])
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            compared = _applied(_COMPARE[type(op)], [_built(x, names, depth + 1) for x in (left, right)])
            return lambda values: compared(values).astype(np.float64)
        case ast.Call():
            return _call(node, names, depth)
    raise ExpressionError(_column(node), f"{ast.unparse(node)[:40]!r} is not allowed; {_ALLOWED}")


_ALLOWED = f"allowed are numbers, names, + - * / **, one comparison, brackets and {', '.join(FUNCTIONS)}"


def _constant(value: float, node: ast.expr) -> _Step:
    try:
        number = np.float64(value)
    except OverflowError:
        number = np.float64(np.inf)
    if not np.isfinite(number):
        raise ExpressionError(_column(node), "a number is too large")
    return lambda values: number  # type: ignore[return-value]


def _call(node: ast.Call, names: dict[str, int], depth: int) -> _Step:
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)[:40]
    if name not in FUNCTIONS or not isinstance(node.func, ast.Name):
        raise ExpressionError(_column(node), f"unknown function {name!r}{nearest(name, FUNCTIONS)}")
    arity, function = FUNCTIONS[name]
    if node.keywords or len(node.args) != arity or any(isinstance(a, ast.Starred) for a in node.args):
        raise ExpressionError(_column(node), f"{name} takes {arity} argument{'s' if arity > 1 else ''}")
    return _applied(function, [_built(argument, names, depth + 1) for argument in node.args])


def _applied(function: Callable[..., np.ndarray], steps: list[_Step]) -> _Step:
    return lambda values: function(*[step(values) for step in steps])
