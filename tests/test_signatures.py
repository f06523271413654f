"""Each public function says what it does and what its arguments are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.py"), *ROOT.glob("docs/*.py"), *ROOT.glob("vision/**/*.py")]


def public_functions(scope: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield functions and methods."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def lacks(function: ast.FunctionDef) -> Iterator[str]:
    """Yield what a signature lacks."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    given += filter(None, (arguments.vararg, arguments.kwarg))
    for argument in given:
        if argument.annotation is None and argument.arg not in ("self", "cls"):
            yield f"the type of {argument.arg}"
    if function.returns is None:
        yield "the type of what it returns"
    if not ast.get_docstring(function):
        yield "a docstring"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_public_functions_have_types_and_docstrings(file):
    found = [
        f"{file.relative_to(ROOT)}:{function.lineno}: {function.name} lacks {what}"
        for function in public_functions(ast.parse(file.read_text()))
        for what in lacks(function)
    ]
    assert not found, "\n".join(found)


def stray_strings(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of strings that are statements and no docstrings, which Python ignores."""
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for scope in (node for node in ast.walk(tree) if isinstance(node, scopes)):
        for statement in scope.body[1:]:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield statement.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_named_function_and_class_says_what_it_does_once(file):
    tree = ast.parse(file.read_text())
    silent = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.name} lacks a docstring"
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent, "\n".join(silent)
    assert not list(stray_strings(tree)), f"{file}: a string that is no docstring"


def test_what_lacks_types_and_a_docstring_is_found():
    function, *others = public_functions(ast.parse("def f(x): pass\ndef _g(): 0"))
    assert not others
    found = ["the type of x", "the type of what it returns", "a docstring"]
    assert list(lacks(function)) == found
