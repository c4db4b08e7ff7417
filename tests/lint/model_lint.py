"""Finds in model code what works on an int and is wrong, or silently forks, on a time that is not known yet.

The rules are those of reference/engine-spike.md section 4. mypy refuses most of it already where a value is declared
as `arith.Time`; this reads plain syntax, so it also sees what is annotated as int, or not at all. It does not follow
values: it forbids the operation, and a line that means a rate, a count or a flag says so:

    slot = index % len(pages)  # concrete: page index

The reason is required, and a note on a line that needs none is itself a finding.

The explorer computes which steps depend on each other from the fields of State objects that they read and assign. A
container that is changed in place escapes it, and orders are lost. So model code changes only containers that a
function made itself: not one found behind an attribute or a parameter, not one of an outer function or the module.
What is filled before the first step says so:

    machine.on_resume.append(self._resume)  # setup: subscribers
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODEL_FOLDERS = ("linux", "machine", "guest", "kvm/model")

ESCAPE = re.compile(r"#\s*(concrete|setup):(.*)")
FOREIGN_MODULES = {"math", "cmath", "statistics", "numpy", "time", "datetime", "random", "secrets", "uuid"}
MASK_NAME = re.compile(r"_?M(31|32|63|64)|_?[US](31|32|63|64)(_MAX|_MASK|_MIN)?|_?MASK_?\d*|\w*mask", re.IGNORECASE)
FLAG_MASK = re.compile(r"\w*flags?\w*", re.IGNORECASE)
SMALL = 2**31
WORD = 2**63

# rule -> (what to do instead, the note that permits it: "concrete", "setup" or none)
RULES = {
    "type-test": ("both number systems must take the same path; test no types", ""),
    "int-call": ("int() of a time that is not known raises", "concrete"),
    "float": ("times are integers: no float literals, no float(), no round()", ""),
    "true-division": ("use // (floor) or arith.div_s64 (C's truncation)", ""),
    "modulo": ("wrap with arith.u64()", "concrete"),
    "select": ("max, min, abs and divmod hide a comparison; write the kernel's if", "concrete"),
    "mask": ("wrap with arith.u64(), s64() or u32()", "concrete"),
    "wrap-by-hand": ("2^63 and 2^64 belong into arith: u64(), s64(), U64_MAX", ""),
    "membership": ("`in` over values that are not constants compares times one by one", "concrete"),
    "identity": ("hash() and id() differ from run to run", ""),
    "set": ("sets have no fixed order; use a tuple, a list or a dict", ""),
    "import": ("true time and randomness come from sim, arithmetic from arith", ""),
    "in-place": ("orders are lost: assign a new tuple or mapping to a State field", "setup"),
    "outer-variable": ("orders are lost: keep what steps share in a State field", ""),
    "escape-without-reason": ("say why: `# concrete: <why>` or `# setup: <why>`", ""),
    "escape-without-need": ("nothing on this line needs it", ""),
}

MUTATORS = {
    "append", "appendleft", "extend", "extendleft", "insert", "remove", "pop", "popleft", "popitem", "clear", "update",
    "setdefault", "add", "discard", "sort", "reverse", "rotate",
}  # fmt: skip
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """One breach: where it is and which rule."""

    line: int
    rule: str
    path: str = "<string>"

    def __str__(self) -> str:
        advice, escapable = RULES[self.rule]
        return f"{self.path}:{self.line}: {self.rule}: {advice}" + (
            f" (or `# {escapable}: <why>`)" if escapable else ""
        )


def model_files(package: Path) -> list[Path]:
    """Every module of model code under src/guestclock; folders may be missing."""
    return sorted(path for folder in MODEL_FOLDERS for path in (package / folder).rglob("*.py"))


def lint_file(path: Path) -> list[Finding]:
    return lint_source(path.read_text(encoding="utf-8"), str(path))


def lint_source(source: str, path: str = "<string>") -> list[Finding]:
    """All findings in one module, by line."""
    escapes = dict(_escapes(source))
    used: set[int] = set()
    findings = [Finding(line, "escape-without-reason", path) for line, (_, reason) in escapes.items() if not reason]
    tree = ast.parse(source)
    changes = {id(node) for node in _changes_of_shared_containers(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr | ast.stmt):
            continue
        lines = {node.lineno, node.end_lineno or node.lineno} & escapes.keys()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor):
            # `flags & STABLE` needs no note, but may have one
            used |= {line for line in lines if escapes[line][0] == "concrete"}
        for rule in (*_breaches(node), *(("in-place",) if id(node) in changes else ())):
            fitting = {line for line in lines if escapes[line][0] == RULES[rule][1]}
            if fitting:
                used |= fitting
            else:
                findings.append(Finding(node.lineno, rule, path))
    findings += [Finding(line, "escape-without-need", path) for line in escapes.keys() - used]
    return sorted(set(findings))


def _escapes(source: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """Line, and the note's word and reason."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (match := ESCAPE.match(token.string)):
            yield token.start[0], (match[1], match[2].strip())


def _changes_of_shared_containers(tree: ast.Module) -> Iterator[ast.AST]:
    """Expressions and statements inside functions that change, in place, a container the function did not make."""
    for function in ast.walk(tree):
        if isinstance(function, FUNCTIONS):
            made = _made_in(function)
            for node in _own_nodes(function):
                if any(_root(changed) not in made for changed in _changed_by(node)):
                    yield node


def _changed_by(node: ast.AST) -> Iterator[ast.expr]:
    """The containers that a node changes in place."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in MUTATORS:
            yield value
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            for target in targets:
                for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                    if isinstance(part, ast.Subscript):
                        yield part.value
        case ast.AnnAssign(target=ast.Subscript(value=value)) | ast.AugAssign(target=ast.Subscript(value=value)):
            yield value
        case ast.AugAssign(target=target, value=ast.List() | ast.Dict() | ast.Set() | ast.ListComp() | ast.DictComp()):
            yield target


def _root(node: ast.expr) -> str | None:
    """The variable that a container is, or is found in by subscripts alone; None: it hangs on an object."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _made_in(function: ast.AST) -> set[str]:
    """Variables of a function whose every value was made in it: displays, comprehensions, results of calls."""
    made, found = set(), set()
    fresh = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.Call, ast.BinOp, ast.Constant)
    for node in _own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                (made if isinstance(value, fresh) else found).add(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                (made if isinstance(value, fresh) else found).add(name)
            case ast.NamedExpr(target=ast.Name(id=name)) | ast.For(target=ast.Name(id=name)):
                found.add(name)
    return made - found


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's body without those of functions and classes in it."""
    body = function.body if isinstance(function.body, list) else [function.body]  # type: ignore[attr-defined]
    rest = list(body)
    while rest:
        node = rest.pop()
        yield node
        if not isinstance(node, FUNCTIONS | ast.ClassDef):
            rest.extend(ast.iter_child_nodes(node))


def _breaches(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            yield from _breaches_of_call(name, node)
        case ast.BinOp(left=left, op=op, right=right):
            yield from _breaches_of_operator(op, left, right)
            if _is_word(node):
                yield "wrap-by-hand"
        case ast.AugAssign(target=target, op=op, value=value):
            yield from _breaches_of_operator(op, target, value)
        case ast.Constant(value=float() | complex()):
            yield "float"
        case ast.Constant(value=int()) if _is_word(node):
            yield "wrap-by-hand"
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            yield from _breaches_of_comparison(left, ops, comparators)
        case ast.Set() | ast.SetComp():
            yield "set"
        case ast.Global() | ast.Nonlocal():
            yield "outer-variable"
        case ast.Import(names=names) if any(name.name.split(".")[0] in FOREIGN_MODULES for name in names):
            yield "import"
        case ast.ImportFrom(module=str(module), level=0) if module.split(".")[0] in FOREIGN_MODULES:
            yield "import"


def _breaches_of_call(name: str, call: ast.Call) -> Iterator[str]:
    match name:
        case "isinstance" | "issubclass" if len(call.args) == 2 and _names_number_type(call.args[1]):
            yield "type-test"
        case "int":
            yield "int-call"
        case "float" | "round" | "complex":
            yield "float"
        case "max" | "min" | "abs" | "divmod":
            yield "modulo" if name == "divmod" else "select"
        case "hash" | "id":
            yield "identity"
        case "set" | "frozenset":
            yield "set"


def _breaches_of_operator(op: ast.operator, left: ast.expr, right: ast.expr) -> Iterator[str]:
    match op:
        case ast.Mod() if not _is_text(left):
            yield "modulo"
        case ast.Div():
            yield "true-division"
        case ast.BitAnd() | ast.BitOr() | ast.BitXor() if _is_wide_mask(left) or _is_wide_mask(right):
            yield "mask"


def _breaches_of_comparison(left: ast.expr, ops: list[ast.cmpop], right: list[ast.expr]) -> Iterator[str]:
    for op, other in zip(ops, right, strict=True):
        if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.Tuple | ast.List | ast.Set):
            if not all(_is_constant(element) for element in other.elts):
                yield "membership"
        elif (_asks_type(left) or _asks_type(other)) and (_names_number_type(left) or _names_number_type(other)):
            yield "type-test"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _asks_type(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _names_number_type(node: ast.expr) -> bool:
    numbers = {"int", "float", "bool", "Integral"}
    return any(isinstance(part, ast.Name) and part.id in numbers for part in ast.walk(node))


def _is_constant(node: ast.expr) -> bool:
    """A literal, or by the project's spelling a constant: UPPER_CASE, Enum.UPPER_CASE."""
    match node:
        case ast.Constant():
            return True
        case ast.UnaryOp(operand=operand):
            return _is_constant(operand)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
    return False


def _is_wide_mask(node: ast.expr) -> bool:
    value = _folded(node)
    if value is not None:
        return not -SMALL <= value < SMALL
    match node:
        case ast.UnaryOp(operand=operand):
            return _is_wide_mask(operand)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return bool(MASK_NAME.fullmatch(name)) and not FLAG_MASK.fullmatch(name)
    return False


def _is_word(node: ast.expr) -> bool:
    """2^63 or more, written out: as a literal, a shift or a power (and not as part of a larger such expression)."""
    match node:
        case ast.Constant(value=value):
            return type(value) is int and value >= WORD
        case ast.BinOp(left=left, op=ast.LShift() | ast.Pow(), right=right):
            value = _folded(node)
            return value is not None and value >= WORD and not (_is_word(left) or _is_word(right))
    return False


def _folded(node: ast.expr) -> int | None:
    """The value of an expression of int literals; None for anything else, and for absurd exponents."""
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return value
        case ast.UnaryOp(op=op, operand=operand):
            value = _folded(operand)
            if value is None:
                return None
            return -value if isinstance(op, ast.USub) else ~value if isinstance(op, ast.Invert) else None
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _folded(left), _folded(right)
            if a is None or b is None:
                return None
            match op:
                case ast.LShift() if 0 <= b <= 256:
                    return a << b
                case ast.Pow() if 0 <= b <= 256:
                    return int(a**b)
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.BitOr():
                    return a | b
    return None
