"""No parser takes more time than in proportion to its input: untrusted input is parsed in the one loop that serves all
clients.

The tests measure growth, by the CPU time of this thread: eight times the input takes about eight times as long, or,
where memory and caches are busy with other things, twice that; a quadratic parser takes 64 times. No absolute time is
ever too long.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import gc
import importlib
import pkgutil
import re
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import proxy_cache
from proxy_cache.mitm import option_values
from proxy_cache.semantics import entity_tags, ranges, targets, validation
from proxy_cache.semantics.credentials import has_credentials
from proxy_cache.semantics.dates import parse_http_date
from proxy_cache.semantics.directives import parse_cache_control, parse_delta_seconds, request_cache_control
from proxy_cache.semantics.field_lines import mended
from proxy_cache.semantics.headers import HOP_BY_HOP, Headers, connection_options, end_to_end, field_line
from proxy_cache.semantics.keys import Target, related_targets
from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.semantics.redaction import redacted
from proxy_cache.semantics.signatures import is_signed_url, signed_fields, without_parameters
from proxy_cache.semantics.status_fields import cache_status, proxy_status
from proxy_cache.semantics.stored import StoredResponse
from proxy_cache.semantics.storing import judge, why_not_shared
from proxy_cache.semantics.targeted import parse_targeted
from proxy_cache.semantics.vary import matches, normalised, selecting_values, vary_names
from proxy_cache.upstream.connection import OriginConnection
from proxy_cache.wire.connect import parse_connect
from proxy_cache.wire.outgoing import request_head
from proxy_cache.wire.requests import absolute_target, parse_request
from proxy_cache.wire.responses import OriginError, content_length, parse_head, persistence
from tests.support.shapes import SHAPES, Shape

from . import NOW

SIZE = 16 * 1024
"""Bytes of the smaller input. Heads that are smaller are parsed in another way."""
MORE = 8
"""How many times as many the larger has."""
TRIES = 6
TOO_SMALL = 0.003
"""Seconds of CPU time that the larger input may take without a look at the growth. A parser that takes
less than this for 128 kB does no harm."""
GROWTH = 24.0
UNLIMITED = HeadLimits(1 << 30, 1 << 30, 1 << 30)


def cost(work: Callable[[], object], runs: int) -> float:
    """The least time of ``work``, in seconds of this thread's CPU. Without the collector: what it takes depends on how
    much there is in the process, and the larger input is the one that sets it off."""
    times = []
    collects = gc.isenabled()
    gc.disable()
    try:
        for _ in range(runs):
            started = time.thread_time()
            work()
            times.append(time.thread_time() - started)
    finally:
        if collects:
            gc.enable()
    return min(times)


def growth(work: Callable[[int], Callable[[], object]]) -> float:
    """The growth of the time for :data:`MORE` times the size. Other load on the machine makes it look larger, so the
    least of several tries counts, and a single good one is enough."""
    small, large = work(SIZE), work(MORE * SIZE)
    least = float("inf")
    for attempt in range(TRIES):
        more = cost(large, 1 + attempt)
        if more <= TOO_SMALL:
            return 0.0
        less = cost(small, 3 + 2 * attempt)
        least = min(least, more / max(less, 1e-9))
        if least < GROWTH:
            break
    return least


def test_the_measure_knows_linear_from_quadratic() -> None:
    quadratic = re.compile(r"[ \t]*,")
    assert any(growth(lambda size: lambda: quadratic.search("a" + " " * (size // 32) + "b")) > GROWTH for _ in range(5))
    linear = re.compile(r"a*+b")
    assert growth(lambda size: lambda: [linear.match("a" * size) for _ in range(100)]) < GROWTH


# -- every pattern -------------------------------------------------------------------------------------------------

BUILDERS = {
    ("mitm.option_values", "host_pattern"): [
        "*.example.com",
        "*a*b*c*:80",
        "[a-z]*?x",
        "a*",
        "[::1]",
        "[2001:db8::1]:8000",
    ]
}
"""Functions that compile an operator's input, and examples of it."""


OPERATORS_OWN = {
    ("mitm.option_values", "_redaction"),
    ("mitm.streaming", "_is_mapped"),
    ("mitm.option_values", "_v6_host"),
    ("mitm.access_values", "_name"),
    ("workers.metrics_port", "allow"),
}
"""Functions that compile an expression of the operator's, who is told to keep it linear (or an address on behalf of one
above, or a pattern for names, as :func:`host_pattern` does: what it meets has 253 characters at most; or what that has
made in another process)."""


def modules() -> list[types.ModuleType]:
    found = pkgutil.walk_packages(proxy_cache.__path__, "proxy_cache.")
    return [proxy_cache, *(importlib.import_module(module.name) for module in found)]


def patterns_in(thing: object, depth: int = 4) -> Iterator[re.Pattern[Any]]:
    """Those that a module, a class, a function's defaults and cells, or a container of it has."""
    if isinstance(thing, re.Pattern):
        yield thing
    elif depth:
        inner: list[object] = []
        if isinstance(thing, (tuple, list, set, frozenset)):
            inner += thing
        elif isinstance(thing, (dict, types.MappingProxyType)):
            inner += thing.values()
        elif isinstance(thing, type) and thing.__module__.startswith("proxy_cache"):
            inner += vars(thing).values()
        elif isinstance(thing, types.FunctionType) and thing.__module__.startswith("proxy_cache"):
            inner += [thing.__defaults__, *(cell.cell_contents for cell in thing.__closure__ or ())]
        for one in inner:
            yield from patterns_in(one, depth - 1)


def all_patterns() -> dict[str, re.Pattern[Any]]:
    found: dict[str, re.Pattern[Any]] = {}
    for module in modules():
        for name, thing in vars(module).items():
            for number, pattern in enumerate(patterns_in(thing)):
                if pattern not in found.values():
                    found[f"{module.__name__.removeprefix('proxy_cache.')}.{name}.{number}"] = pattern
    for (module_name, function), examples in BUILDERS.items():
        for example in examples:
            found[f"{module_name}.{function}({example})"] = getattr(option_values, function)(example)
    return found


PATTERNS = all_patterns()
USED_BY_ANOTHER_NAME = {"_FORMS": {"fullmatch"}, "host_pattern": {"match"}}
"""Patterns that are called by a name which is not their own, and how."""


@functools.cache
def uses_of_names() -> dict[str, set[str]]:
    """The methods called on each expression, by name: an anchored one is never used to search. (It takes seconds: not
    for every process that merely collects tests.)"""
    uses: dict[str, set[str]] = {name: set(methods) for name, methods in USED_BY_ANOTHER_NAME.items()}
    for module in modules():
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                uses.setdefault(node.value.id, set()).add(node.attr)
    return uses


ALL_MATCHES = {"finditer", "findall", "sub", "split"}


def test_all_patterns_are_found() -> None:
    """Whatever compiles one does so where a module is loaded, so that it can be listed; or is listed above."""
    assert len(PATTERNS) > 25
    for module in modules():
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "re"
                    and node.func.attr != "escape"
                ):
                    where = module.__name__.removeprefix("proxy_cache."), function.name
                    assert where in BUILDERS or where in OPERATORS_OWN, (
                        f"{where} compiles an expression when it is called"
                    )


OF_CATEGORY = {ops.CATEGORY_DIGIT: "7", ops.CATEGORY_SPACE: " ", ops.CATEGORY_NOT_SPACE: "n", ops.CATEGORY_WORD: "w"}


def members(item: tuple[Any, Any]) -> list[str]:
    """A few characters that a class, or a literal, matches."""
    op, value = item
    if op is ops.LITERAL:
        return [chr(value)]
    if op is ops.ANY:
        return ["a", " "]
    if op is ops.NOT_LITERAL:
        return [char for char in ("a", "b") if ord(char) != value][:1]
    assert op is ops.IN, op
    found: list[str] = []
    negated = False
    for kind, of in value:
        if kind is ops.NEGATE:
            negated = True
        elif kind is ops.LITERAL:
            found.append(chr(of))
        elif kind is ops.RANGE:
            found += [chr(of[0]), chr(of[1])]
        else:
            assert kind is ops.CATEGORY, kind
            found.append(OF_CATEGORY[of])
    if negated:
        return [char for char in ("a", " ", "1", "~", "\x01") if char not in found][:2]
    return list(dict.fromkeys(found))[:6]


def sample(tree: Any, *, long: bool = False) -> str:
    """A matching text; ``long``: with one of each optional part."""
    text = ""
    for op, value in tree:
        if op in (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN):
            text += members((op, value))[0]
        elif op is ops.SUBPATTERN:
            text += sample(value[3], long=long)
        elif op is ops.ATOMIC_GROUP:
            text += sample(value, long=long)
        elif op is ops.BRANCH:
            text += sample(value[1][0], long=long)
        elif op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
            least, most, inner = value
            text += sample(inner, long=long) * (max(least, 1) if long and most else least)
        else:
            assert op in (ops.AT, ops.ASSERT, ops.ASSERT_NOT, ops.GROUPREF), op
    return text


def repeated(tree: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """For each part that may repeat, and each kind of character in it: the text before it, and the part."""
    for op, value in tree:
        if op in (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT):
            least, most, inner = value
            if most is ops.MAXREPEAT or most > 8:
                if len(inner) == 1 and inner[0][0] in (ops.IN, ops.LITERAL, ops.ANY, ops.NOT_LITERAL):
                    for char in members(inner[0]):
                        yield before, char
                yield before, sample(inner, long=True) or "a"
            yield from repeated(inner, before)
            before += sample(inner, long=True) * least
        elif op is ops.SUBPATTERN:
            yield from repeated(value[3], before)
            before += sample(value[3])
        elif op is ops.ATOMIC_GROUP:
            yield from repeated(value, before)
            before += sample(value)
        elif op is ops.BRANCH:
            for branch in value[1]:
                yield from repeated(branch, before)
                yield before, sample(branch, long=True) or "a"
            before += sample(value[1][0])
        elif op in (ops.ASSERT, ops.ASSERT_NOT):
            yield from repeated(value[1], before)
        else:
            before += sample([(op, value)])


def attacks(pattern: re.Pattern[Any]) -> list[Callable[[int], str]]:
    """Inputs of any size: each repeatable part, with or without the text before it, followed by something that doesn't
    match; the same several times; and a whole match, again and again."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = parser.parse(text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags)
    whole = sample(tree, long=True) or "a"
    pieces = dict.fromkeys([("", whole), ("", whole[:-1] or "a"), ("", whole[1:] or "a"), *repeated(tree)])
    made: list[Callable[[int], str]] = []
    for before, piece in pieces:
        for end in ("", "\x00", "!", piece[:1] + "\x00"):
            made.append(lambda size, b=before, p=piece, e=end: b + p * (size // len(p)) + e)
        if before:
            unit = before + piece
            made.append(lambda size, u=unit: u * (size // len(u)) + "\x00")
            made.append(lambda size, b=before, p=piece: (b + p * 50) * (size // len(b + p * 50)) + "\x00")
    return made


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_is_linear(name: str) -> None:
    pattern = PATTERNS[name]
    inputs = attacks(pattern)
    assert inputs
    names = uses_of_names()
    uses = names[name.partition("(")[0].rpartition(".")[2]] if "(" in name else names[name.split(".")[-2]]
    assert uses & {"match", "fullmatch", "search", *ALL_MATCHES}, "how is it used?"
    for make in inputs:

        def work(size: int, make: Callable[[int], str] = make) -> Callable[[], object]:
            text: Any = make(size) if isinstance(pattern.pattern, str) else make(size).encode("latin-1", "replace")

            def run() -> None:
                if "match" in uses:
                    pattern.match(text)
                if "fullmatch" in uses:
                    pattern.fullmatch(text)
                if "search" in uses:
                    pattern.search(text)
                if uses & ALL_MATCHES:
                    for _ in pattern.finditer(text):
                        pass

            return run

        times = growth(work)
        assert times < GROWTH, f"{pattern.pattern!r}: {times:.1f} times as long for {MORE} times {make(40)!r}"


# -- every parser --------------------------------------------------------------------------------------------------

Parser = Callable[[Shape, int], Callable[[], object]]
TARGET = Target.of("http", "a.example", 80, "/a")


def of_text(parse: Callable[[str], object]) -> Parser:
    def prepare(shape: Shape, size: int) -> Callable[[], object]:
        text = shape.text(size)
        return lambda: parse(text)

    return prepare


def of_headers(parse: Callable[[Headers], object], *names: bytes) -> Parser:
    """With all of it under each of these names, or each line under its own."""

    def prepare(shape: Shape, size: int) -> Callable[[], object]:
        all_fields = [shape.fields(size, name) for name in names] or [shape.fields(size)]

        def run() -> None:
            for fields in all_fields:
                parse(Headers(fields))

        return run

    return prepare


def of_block(parse: Callable[[bytes], object]) -> Parser:
    def prepare(shape: Shape, size: int) -> Callable[[], object]:
        block = shape.block(size)
        return lambda: parse(block)

    return prepare


def whatever_comes_of_it(parse: Callable[..., object]) -> Callable[..., object]:
    def run(*arguments: Any) -> object:
        try:
            return parse(*arguments)
        except (OriginError, ValueError):
            return None

    return run


def headers_work(headers: Headers) -> None:
    for name in headers.names:
        headers.get(name)
    headers.get_all("a")
    headers.without("a", "connection").set("b", "x").add("c", "y").plus(field_line(b"d", b"z"))
    headers.set("x-shape", "y").names  # noqa: B018
    end_to_end(headers).packed()
    repr(headers)
    Headers.received([field_line(*field) for field in headers.fields])
    packed = Headers.of_packed(headers.packed())
    packed.get("a")
    packed.pack()
    headers.plus(*[field_line(*field) for field in headers.fields]).get("a")
    headers.has_any(HOP_BY_HOP)


def stored(headers: Headers) -> StoredResponse:
    return StoredResponse.of(200, headers, headers, NOW, NOW)


def updated(headers: Headers) -> None:
    response = stored(headers)
    response.updated_by(headers, NOW, NOW, headers)
    response.for_the_asker(headers)
    validation.not_modified_headers(headers)


def vary_of(headers: Headers) -> None:
    names = vary_names(headers)
    if names:
        matches(selecting_values(names, headers), headers)


def selected(headers: Headers) -> None:
    names = ("accept", "accept-encoding", "accept-language", "authorization", "prefer", "x-shape")
    matches(selecting_values(names, headers), headers)


def conditions(headers: Headers) -> None:
    response = stored(Headers([(b"ETag", b'"zz"'), (b"Last-Modified", b"Mon, 01 Jan 2024 00:00:00 GMT")]))
    validation.not_modified(headers, 200, response.headers)
    validation.is_another_version(headers, response)
    validation.may_stand_for(headers, response)
    ranges.select(headers, response.headers, 1000)
    ranges.parse_content_range(headers)


def tags(headers: Headers) -> None:
    entity_tags.entity_tag(headers)
    entity_tags.strong_match(headers.get("etag") or "", "a")
    ranges.strong_validator(headers)


PLAIN = b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
PARSERS: dict[str, Parser] = {
    "parse_request": of_block(lambda block: parse_request(PLAIN + block + b"\r\n", UNLIMITED)),
    "parse_request, limited": of_block(lambda block: parse_request(PLAIN + block + b"\r\n")),
    "parse_request, unfinished": of_block(lambda block: parse_request(PLAIN + block, UNLIMITED)),
    "parse_connect": of_block(
        lambda block: parse_connect(b"CONNECT a:443 HTTP/1.1\r\n" + block + b"\r\n", UNLIMITED)
    ),
    "parse_connect, its host": of_text(
        lambda text: parse_connect(f"CONNECT {text}:443 HTTP/1.1\r\n\r\n".encode("latin-1"), UNLIMITED)
    ),
    "parse_request, its target": of_text(
        lambda text: parse_request(f"GET http://{text} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"), UNLIMITED)
    ),
    "parse_head": of_block(whatever_comes_of_it(lambda block: parse_head(OK + block + b"\r\n", UNLIMITED))),
    "parse_head, limited": of_block(whatever_comes_of_it(lambda block: parse_head(OK + block + b"\r\n"))),
    "parse_head, folded": of_block(
        whatever_comes_of_it(lambda block: parse_head(OK + block.replace(b"\r\n", b"\r\n x\r\n") + b"\r\n", UNLIMITED))
    ),
    "parse_head, bare line feeds": of_block(
        whatever_comes_of_it(lambda block: parse_head(OK + block.replace(b"\r\n", b"\n") + b"\n", UNLIMITED))
    ),
    "parse_head, unfinished": of_block(whatever_comes_of_it(lambda block: parse_head(OK + block, UNLIMITED))),
    "parse_head, its status": of_text(
        whatever_comes_of_it(lambda text: parse_head(f"HTTP/1.1 200 {text}\r\n\r\n".encode("latin-1"), UNLIMITED))
    ),
    "content_length": of_headers(whatever_comes_of_it(content_length), b"Content-Length"),
    "persistence": of_text(persistence),
    "connection_options": of_text(lambda text: connection_options((text,))),
    "headers": of_headers(headers_work),
    "headers of one name": of_headers(headers_work, b"x-shape", b"connection"),
    "cache-control": of_headers(lambda found: parse_cache_control(found.get_all("cache-control")), b"Cache-Control"),
    "request's": of_headers(request_cache_control, b"Cache-Control", b"Pragma"),
    "seconds": of_text(parse_delta_seconds),
    "targeted": of_text(parse_targeted),
    "vary": of_headers(vary_of, b"Vary"),
    "selecting values": of_headers(selected, b"Accept", b"Accept-Encoding", b"Accept-Language", b"Prefer", b"Cookie"),
    "negotiation": of_text(lambda text: [normalised(name, text) for name in ("accept", "accept-charset", "te")]),
    "conditions": of_headers(
        conditions, b"If-None-Match", b"If-Match", b"If-Modified-Since", b"If-Range", b"Range", b"Accept-Encoding",
        b"Content-Range",
    ),
    "tags": of_headers(tags, b"ETag"),
    "dates": of_text(parse_http_date),
    "stored": of_headers(updated),
    "stored, by field": of_headers(
        updated, b"Cache-Control", b"Expires", b"Date", b"Age", b"Last-Modified", b"ETag", b"Vary"
    ),
    "judged": of_headers(lambda headers: (judge(headers, 200, headers), why_not_shared(headers, headers))),
    "credentials": of_headers(has_credentials),
    "signatures": of_headers(
        lambda headers: signed_fields(headers, f"/a?{headers.get('authorization') or ''}"),
        b"Authorization", b"Signature-Input",
    ),
    "is_signed_url": of_text(lambda text: is_signed_url(f"/a?{text}")),
    "without_parameters": of_text(
        whatever_comes_of_it(lambda text: without_parameters(f"http://a/?{text}", ["X-Amz-*", "*a*b"]))
    ),
    "redacted": of_text(lambda text: redacted(f"http://a.example/{text}")),
    "target": of_text(lambda text: Target.of("http", text, 80, text).shown),
    "absolute_target": of_text(lambda text: (absolute_target("http://" + text), absolute_target(f"http://a/{text}"))),
    "a host": of_text(lambda text: targets.is_host_field(text)),
    "an authority": of_text(whatever_comes_of_it(lambda text: targets.address(text, 80))),
    "a target of a request": of_text(
        whatever_comes_of_it(lambda text: targets.of_request("GET", f"http://a?{text}", "", "http"))
    ),
    "mended": of_block(whatever_comes_of_it(lambda block: mended(block.split(b"\r\n")))),
    "mended, folded": of_block(
        whatever_comes_of_it(lambda block: mended(block.replace(b"\r\n", b"\r\n x").split(b"\r\n")))
    ),
    "a head that leaves": of_block(
        whatever_comes_of_it(lambda block: request_head(b"GET", block, b"a", b"Host: a\r\n" + block + b"\r\n", 2))
    ),
    "related_targets": of_headers(lambda headers: related_targets(TARGET, headers), b"Location", b"Content-Location"),
    "status fields": of_text(lambda text: (cache_status(text, detail=text), proxy_status("a", text, detail=text))),
    "multipart": of_text(lambda text: ranges.multipart([ranges.Span(0, 1)], 5, text, "b")),
}  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_every_parser_is_linear(name: str) -> None:
    assert len(SHAPES) >= 50
    for shape in SHAPES:
        times = growth(lambda size, shape=shape: PARSERS[name](shape, size))  # type: ignore[misc]
        assert times < GROWTH, f"{shape.name}: {times:.1f} times as long for {MORE} times the bytes"


# -- bodies in chunks ----------------------------------------------------------------------------------------------

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = {
    "small chunks": (b"", b"1\r\na\r\n"),
    "small chunks, bare line feeds": (b"", b"1\na\n"),
    "extensions": (b"", b"1;a=b;c=d\r\na\r\n"),
    "a long extension": (b"1;", b"a"),
    "spaces": (b"1", b" "),
    "zeros": (b"", b"0"),
    "digits": (b"", b"f"),
    "trailers": (b"0\r\n", b"A: b\r\n"),
    "a trailer": (b"0\r\nA: ", b"b"),
    "empty lines": (b"", b"\r\n"),
    "interim responses": (b"", b""),
}


class Socket:
    """A transport without a peer."""

    max_size = 0

    def __init__(self) -> None:
        self.closing = False
        self.protocol = self.transport = self

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> object:
        return self if name == "ssl_object" else None

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def nothing(self, *_: object) -> None: ...

    set_protocol = pause_reading = resume_reading = write = connection_lost = nothing


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("step", [1 << 20, 1024], ids=["at once", "in pieces"])
def test_bodies_in_chunks_are_linear(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    monkeypatch.setattr("proxy_cache.upstream.connection.read_at_once", lambda loop, transport: lambda: None)
    before, piece = CHUNKS[name]

    def work(size: int) -> Callable[[], object]:
        if piece:
            data = CHUNKED + before + piece * (size // len(piece))
        else:
            data = (b"HTTP/1.1 103 Early\r\n" + b"A: b\r\n" * (size // 400) + b"\r\n") * 60

        def run() -> None:
            connection = OriginConnection(
                Socket(), ("http", "a"), b"", absolute=False, generation=0, timeout=30,
                on_idle=lambda _: None, on_lost=lambda _: None, limits=UNLIMITED,
            )  # fmt: skip
            connection.ask(b"GET / HTTP/1.1\r\n\r\n", lambda *_: None, lambda _: None)
            for at in range(0, len(data), step):
                connection.data_received(data[at : at + step])
            connection.abort()

        return run

    async def measured() -> float:
        return growth(work)

    times = asyncio.run(measured())
    assert times < GROWTH, f"{times:.1f} times as long for {MORE} times the bytes"
