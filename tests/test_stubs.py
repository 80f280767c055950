"""What a connection's stub documents is what `help()` shows. `make types` compares the rest."""

import ast
import inspect
from pathlib import Path

import pytest

import tcpconn
from tcpconn._aio import AsyncEndpoint
from tcpconn._endpoint import Endpoint
from tcpconn._receiving import Receiving
from tcpconn._sending import Sending

HALVES = {
    "_receiving.pyi": Receiving,
    "_sending.pyi": Sending,
    "_endpoint.pyi": Endpoint,
    "_aio.pyi": AsyncEndpoint,
}


def documented(stub: str) -> dict[str, str | None]:
    """The docstrings of the methods and properties of the last class in a stub, by name."""
    path = Path(tcpconn.__file__).with_name(stub)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = [node for node in tree.body if isinstance(node, ast.ClassDef)][-1]
    return {
        node.name: ast.get_docstring(node)
        for node in described.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(
    ("stub", "name"),
    [(stub, name) for stub, half in HALVES.items() for name in vars(half) if name[0] != "_"],
)
def test_documented_alike_in_the_stub_and_in_the_module(stub: str, name: str) -> None:
    doc = documented(stub)[name]
    assert doc
    if name != "engine":  # not a property of ours, but one that Cython makes
        assert inspect.getdoc(getattr(HALVES[stub], name)) == doc
