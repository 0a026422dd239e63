"""The rooms of proxy_cache: who may import whom (the list is in ``proxy_cache/__init__.py``)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "proxy_cache"
FLOORS = [
    "preflight", "mitm", "workers", "app", "admin", "downstream", "settings", "caching", "upstream", "store", "wire",
    "semantics",
]  # fmt: skip
"""From the top to the ground."""
BESIDE = {"observe", "runtime"}
"""May be imported from any floor, but for what is named in :data:`ONLY_FROM`, and import ``semantics`` alone."""
APART = "cli"
"""A command for other machines: nobody imports it, and it imports nothing of the proxy's, but for"""
WHERE_THE_PROXY_IS = {("cli.check", "preflight.checks"), ("cli.run", "workers.start")}
"""what reads the options as the proxy does, before that is started, and what keeps several workers running: imported
only when they run."""
ONLY_FROM = {"observe.metrics": {"app", "admin"}}
"""Whoever is told of an event doesn't know who counts it."""


def parsed() -> dict[str, ast.Module]:
    """All modules by their names within the package."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return modules


MODULES = parsed()


def imports(name: str) -> Iterator[str]:
    """The modules of ours that one imports, be it for a type checker alone."""
    tree = MODULES[name]
    is_package = (PACKAGE / name.replace(".", "/")).is_dir()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            parts = name.split(".")
            keep = len(parts) - node.level + (1 if is_package else 0)
            base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
        elif node.module is not None and node.module.partition(".")[0] == "proxy_cache":
            base = node.module.partition(".")[2]
        else:
            continue
        for alias in node.names:
            inner = f"{base}.{alias.name}".strip(".")
            yield inner if inner in MODULES else base


def room(name: str) -> str:
    return name.partition(".")[0]


def test_imports_run_down() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name in MODULES
        if name
        for imported in imports(name)
        if imported and room(imported) != room(name) and not may_import(room(name), imported)
        if (name, imported) not in WHERE_THE_PROXY_IS
    ]
    assert not wrong


def may_import(above: str, imported: str) -> bool:
    if APART in (above, room(imported)):
        return False
    if room(imported) in BESIDE:
        return above in ONLY_FROM.get(imported, {*FLOORS, *BESIDE})
    return room(imported) in (["semantics"] if above in BESIDE else FLOORS[FLOORS.index(above) + 1 :])


def test_every_module_has_a_room() -> None:
    assert {room(name) for name in MODULES if name} == {*FLOORS, *BESIDE, APART}
    assert [name for name in MODULES if name and not (PACKAGE / room(name)).is_dir()] == ["app", "settings"]


def foreign(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The packages that are not ours which a module imports, and in which line."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            yield name.partition(".")[0], node.lineno


def test_bytes_are_read_without_a_socket_or_a_clock() -> None:
    harmless = {"__future__", "collections", "dataclasses", "functools", "ipaddress", "re", "typing"}
    found = [
        f"{name}, line {line}: {package}"
        for name, tree in MODULES.items()
        if room(name) == "wire"
        for package, line in foreign(tree)
        if package not in harmless
    ]
    assert not found


def test_mitmproxy_is_known_in_one_room() -> None:
    found = [
        f"{name}, line {line}"
        for name, tree in MODULES.items()
        if room(name) != "mitm"
        for package, line in foreign(tree)
        if package == "mitmproxy"
    ]
    assert not found


def test_the_command_needs_nothing_that_a_client_may_not_have() -> None:
    """Nothing but Python's own modules before it prints to a terminal, where Rich makes it readable."""
    found = []
    for name, tree in MODULES.items():
        if room(name) == APART:
            at_import = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If))]
            early = {line for node in at_import for _, line in foreign(node)}
            found += [
                f"{name}, line {line}: {package}"
                for package, line in foreign(tree)
                if package not in sys.stdlib_module_names and (package != "rich" or line in early)
            ]
    assert not found


def test_sockets_outward_are_opened_in_one_place() -> None:
    """What is not dialled there is not checked there either."""
    opening = {"create_connection", "open_connection", "sock_connect", "start_tls", "create_datagram_endpoint"}
    found = [
        f"{name}, line {node.lineno}: {word}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load)
        if (word := node.attr if isinstance(node, ast.Attribute) else node.id) in opening
        if name != "upstream.dial"
    ]
    assert not found


def test_aiohttp_serves_and_asks_nobody_but_workers() -> None:
    """Those are asked by Unix sockets: no address is dialled."""
    found = {
        (room(name), ast.unparse(node))
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        if module.partition(".")[0] in ("aiohttp", "yarl", "multidict")
    }
    assert found == {
        ("admin", "from aiohttp import web"), ("admin", "from aiohttp.http_exceptions import HttpProcessingError"),
        ("workers", "from aiohttp import web"),
        ("workers", "from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector"),
    }  # fmt: skip


def test_no_circles() -> None:
    """Also not of imports for types alone."""
    arrows = {name: set(imports(name)) - {name, ""} for name in MODULES}
    while free := [name for name, targets in arrows.items() if not targets]:
        for name in free:
            del arrows[name]
        for targets in arrows.values():
            targets.difference_update(free)
    assert not arrows


def test_a_file_holds_one_idea() -> None:
    """Over 450 lines there are mostly two."""
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := path.read_text().count("\n")) > 450
    }
    assert not long
