"""The table of mitmproxy's private names, and the detection of changes."""

from __future__ import annotations

import ast
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_cache.mitm import compat
from proxy_cache.runtime import loop
from proxy_cache.runtime.privates import Feature, Name, attributes, calls, names, overrides, report

MITM = Path(compat.__file__).parent
ONLY_ANNOTATIONS = {
    "mitmproxy.proxy.layer:CommandGenerator",
    "mitmproxy.proxy.server_hooks:ServerConnectionHookData",
}
"""Names used by type checkers only."""
FOREIGN = ("mitmproxy", "h11", "OpenSSL", "h2", "hpack")


def imported() -> Iterator[tuple[str, str]]:
    """The undocumented names of mitmproxy and its dependencies that the files use, by file."""
    for path in sorted(MITM.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        modules: dict[str, str] = {}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module or id(node) in for_types:
                continue
            if node.module.partition(".")[0] in FOREIGN and node.module not in compat.DOCUMENTED:
                for alias in node.names:
                    if is_module(f"{node.module}.{alias.name}"):
                        modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    else:
                        yield f"{path.relative_to(MITM)}", f"{node.module}:{alias.name}"
        for node in ast.walk(tree):
            name = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
            if name in modules and modules[name] not in compat.DOCUMENTED and id(node) not in for_types:
                yield f"{path.relative_to(MITM)}", f"{modules[name]}:{node.attr}"


def is_module(where: str) -> bool:
    try:
        importlib.import_module(where)
    except ImportError:
        return False
    return True


def test_what_is_imported_is_in_the_table() -> None:
    known = {
        name.where.partition(":")[0] + ":" + name.where.partition(":")[2].partition(".")[0]
        for part in compat.FEATURES
        for name in part.needs
    }
    left = sorted({where for _, where in imported()} - known - ONLY_ANNOTATIONS)
    assert left == []


def test_all_is_as_known_in_the_mitmproxy_and_the_python_that_are_installed() -> None:
    assert [part for part in (*compat.FEATURES, *loop.FEATURES) if not part.is_on] == []
    assert all(part.needs for part in (*compat.FEATURES, *loop.FEATURES))


class Known:
    def method(self, one: int, two: int = 0, *, three: int = 0) -> None:
        self.given = one


HERE = f"{__name__}:Known"


@pytest.mark.parametrize(
    "name",
    [
        *calls(HERE, method="self, one"),
        *calls(HERE, method="self, one, two, *, three"),
        *overrides(HERE, method="one, two, *, three"),
        *attributes(HERE, "given method"),
        *names(HERE, "method"),
        *names("ssl", "SSLContext"),
    ],
    ids=str,
)
def test_what_is_as_known(name: Name) -> None:
    assert name.problem() is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (*calls(HERE, method="self"), "takes (self, one, two, three) now"),  # it needs more
        (*calls(HERE, method="self, two"), "takes"),  # another order
        (*calls(HERE, method="self, one, *, four"), "takes"),
        (*overrides(HERE, method="one, two"), "takes"),  # mitmproxy may pass ours what it doesn't know
        (*attributes(HERE, "taken"), "Known.taken (gone)"),
        (*names(HERE, "taken"), "Known.taken (gone)"),
        (*names("proxy_cache.nowhere", "some"), "proxy_cache.nowhere (not importable"),
        (*calls(HERE, __doc__="self"), "no longer callable"),
    ],
    ids=str,
)
def test_what_has_changed(name: Name, problem: str) -> None:
    found = name.problem()
    assert found is not None
    assert problem in found


def test_one_line_for_one_reason(caplog: pytest.LogCaptureFixture) -> None:
    gone = tuple(names(HERE, "taken"))
    parts = [
        Feature("reads", "they are slow", gone),
        Feature("writes", "they are slower", gone),
        Feature("all else", "-", ()),
    ]
    for part in parts:
        part.check("example 2.0")
    with caplog.at_level(logging.WARNING):
        report(parts, logging.getLogger("test"))
        report(parts, logging.getLogger("test"))
    assert [record.getMessage() for record in caplog.records] == [
        "proxy-cache: example 2.0 changed test_compat.Known.taken (gone): reads off: they are slow; "
        "writes off: they are slower"
    ]
    assert [part.is_on for part in parts] == [False, False, True]


def test_an_instance_tells_at_the_first_use(caplog: pytest.LogCaptureFixture) -> None:
    part = Feature("reads", "they are slow", names(HERE, "method"))
    part.check("example 2.0")
    assert part.is_on
    for _ in range(2):
        part.guard(logging.getLogger("test"), lambda: Known().given)  # type: ignore[arg-type,return-value]
    assert not part.is_on
    assert len(caplog.records) == 1
    assert "'Known' object has no attribute 'given'" in caplog.records[0].getMessage()
