"""What a connection's stub documents is what `help()` shows. `make types` compares the rest."""

import ast
import inspect
from pathlib import Path

import pytest

import tcpconn
from tcpconn._endpoint import Endpoint

STUB = Path(tcpconn.__file__).with_name("_endpoint.pyi")


def documented() -> dict[str, str | None]:
    """The docstrings of the methods and properties in the stub, by name."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    [endpoint] = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        node.name: ast.get_docstring(node)
        for node in endpoint.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", [name for name in vars(Endpoint) if not name.startswith("_")])
def test_documented_alike_in_the_stub_and_in_the_module(name: str) -> None:
    doc = documented()[name]
    assert doc
    if name != "engine":  # not a property of ours, but one that Cython makes
        assert inspect.getdoc(getattr(Endpoint, name)) == doc
