"""The layers of the package: each module imports only from those below it."""

import ast
import re
from pathlib import Path

import pytest

import tcpconn

INSTALLED = Path(tcpconn.__file__).parent
SOURCE = Path(__file__).resolve().parent.parent / "tcpconn"
"""Where the .pyx are: they are not installed."""

ORDER = [
    ["errors", "addresses", "options", "admission", "grumbling", "tls_errors"],
    ["_memory", "_sync", "_wire", "_rate"],
    ["_budget", "_process"],
    ["_link", "_buffer", "_table", "_schedule"],
    ["_link_linux", "_link_tls", "_frame", "_sendqueue"],
    ["_state"],
    ["_routes"],
    ["_send"],
    ["_control"],
    ["_receive"],
    ["_resume"],
    ["_leftover"],
    ["_lifecycle", "_holding"],
    ["_session"],
    ["_waiting"],
    ["_engine"],
    ["_ending"],
    ["_driver", "_receiving"],
    ["_sending"],
    ["_keeper", "_endpoint"],
    ["_accept"],
    ["_loop"],
    ["_aio"],
    ["facts"],
    ["connection"],
    ["handshake"],
    ["tls", "authkey"],
    ["securing"],
    ["dialling"],
    ["redial", "greeter"],
    ["multiplexer"],
    ["pool", "sessions"],
    ["server"],
    ["aio"],
    ["anyio"],
    [""],  # the package itself: tcpconn/__init__.py
    ["cli"],
    ["__main__"],
]
"""From below. Modules of one line know nothing of each other, but for those in `MAY`."""

MAY = {
    ("addresses", "errors"),
    ("options", "errors"),
    ("tls_errors", "errors"),
    # The keeper starts the link's implementation for the platform, if there is one.
    ("_keeper", "_link_linux"),
}
ONLY_FROM = {"_link": "_engine", "_link_linux": "_keeper", "_link_tls": "_keeper"}
"""Sockets are the engine's business: what is below it must not know them."""

LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def modules():
    """(module, path) of every Python and Cython file there is."""
    found = {}
    for folder in (INSTALLED, SOURCE):
        if folder.is_dir():
            for path in sorted(folder.rglob("*")):
                if path.suffix in {".py", ".pyi", ".pxd", ".pyx"}:
                    found.setdefault(path.relative_to(folder), path)
    for relative, path in sorted(found.items()):
        first = relative.parts[0]
        name = first if len(relative.parts) > 1 else relative.stem
        yield ("" if name == "__init__" else name), path


def imported(path):
    """The modules of the package that a file imports."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".py", ".pyi"}:
        names = set()
        for node in statements(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names |= from_import(node.module or "", [alias.name for alias in node.names])
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    names |= from_import(alias.name, [])
        return names
    names = set()
    for match in re.finditer(
        r"^[ \t]*from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n]*)", text, re.MULTILINE
    ):
        what = re.sub(r"#[^\n]*", "", match[2]).strip("() \n")
        names |= from_import(
            match[1], [name.split()[0] for name in what.split(",") if name.strip()]
        )
    for match in re.finditer(r"^[ \t]*c?import\s+([\w.]+)", text, re.MULTILINE):
        names |= from_import(match[1], [])
    return names


def statements(tree):
    """All nodes of a tree but those that are there for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def from_import(module, names):
    """What of the package "from module import names" is about."""
    if module == "tcpconn":
        return {name for name in names if name in LEVEL} or {""}
    if module.startswith("tcpconn."):
        return {module.split(".")[1]}
    return set()


FILES = list(modules())


def test_all_modules_are_there_and_none_is_forgotten():
    assert {name for name, _ in FILES} == set(LEVEL)


@pytest.mark.parametrize(("name", "path"), [pytest.param(*f, id=f[1].name) for f in FILES])
def test_imports_go_down_only(name, path):
    for other in imported(path) - {name}:
        assert other in LEVEL, f"{path} imports tcpconn.{other}"
        assert LEVEL[other] < LEVEL[name] or (name, other) in MAY, (
            f"{path}: {name} must not know {other or 'the package'}"
        )
        least = ONLY_FROM.get(other)
        assert least is None or LEVEL[name] >= LEVEL[least] or name in ONLY_FROM, (
            f"{path}: {name} must not know {other}"
        )


@pytest.mark.skipif(not SOURCE.is_dir(), reason="the sources are not here")
def test_every_compiled_module_has_a_stub():
    compiled = {path.stem for path in SOURCE.glob("*.pyx")}
    stubs = {path.stem for path in SOURCE.glob("*.pyi")}
    assert compiled - stubs == set()
    assert stubs - compiled == set()


@pytest.mark.skipif(not SOURCE.is_dir(), reason="the sources are not here")
def test_every_stub_and_declaration_is_installed():
    for path in [*SOURCE.glob("*.pyi"), *SOURCE.glob("*.pxd"), SOURCE / "py.typed"]:
        assert (INSTALLED / path.name).is_file(), path.name


def test_the_parser_sees_every_kind_of_import(tmp_path):
    path = tmp_path / "_x.pyx"
    path.write_text(
        "cimport cython\n"
        "from tcpconn._buffer cimport Block  # tcpconn._no\n"
        "from tcpconn._frame cimport (\n    Fault,\n    fault_set,  # why\n)\n"
        "    from tcpconn import errors, pool\n"
        "from tcpconn._wire cimport *\n"
        "import tcpconn._session\n"
        "cimport tcpconn._send\n"
        "from tcpconn import connect\n"
    )
    assert imported(path) == {
        "_buffer", "_frame", "errors", "pool", "_wire", "_session", "_send", "",
    }  # fmt: skip
