"""What mitmproxy's path makes of a client's bytes, without a socket: bytes in, bytes that an origin would get out.

``python -m tests.support.forwarding 300000 [seed]`` feeds as many generated inputs, and tells of those where the origin
gets anything but the requests that the keys and the client meant.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
from mitmproxy import ctx, http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, Connection, ConnectionState
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons

from proxy_cache.caching.headers import Heads
from proxy_cache.mitm.flows import has_body, refusal, target_of
from proxy_cache.mitm.layers import CacheHttpLayer
from proxy_cache.semantics.keys import Target
from proxy_cache.semantics.limits import DEFAULT_HEAD_LIMITS
from proxy_cache.upstream.access import Access

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Flows:
    """What the layers ask and report to, with a proxy around them that has no cache."""

    via = "proxy-cache-test"
    head_limits = DEFAULT_HEAD_LIMITS
    origin_timeout = 30.0
    access = Access()

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def refused(self, client: Client, status: int, error: str, detail: str, *, has_flow: bool = False) -> http.Response:
        return refusal(Heads(self.via), status, error, detail)

    def stream_gone(self, flow: http.HTTPFlow) -> None:
        """Nothing waits here."""

    def unreachable(self, flow: http.HTTPFlow, message: str) -> http.Response:
        return refusal(Heads(self.via), 502, "connection_terminated", message)

    def still_listens(self, client: Client) -> bool:
        return False

    def connect_is_answered(self, client: Client) -> bool:
        return False

    def is_outdated(self, connection: Connection) -> bool:
        return False

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def watch_upgrades(self) -> bool:
        return False

    def is_alone_with(self, flow: http.HTTPFlow) -> bool:
        return False

    def layer_chosen(self, client: Client, layer: object) -> None: ...

    @property
    def app(self) -> Flows:
        return self

    tunnels = observers = clients = forward_trust = app

    def opened(self, client: Client, target: str, error: str | None) -> None: ...

    def data(self, client: Client, from_client: bool, size: int) -> None: ...


@dataclass
class Received:
    """A request that an origin got, by h11."""

    method: bytes
    target: bytes
    host: list[bytes]
    body: bytes


@dataclass
class Outcome:
    keys: list[tuple[str, Target]] = field(default_factory=list)
    """Methods and targets that hooks have seen, in order."""
    origins: list[Received] = field(default_factory=list)
    raw: dict[object, bytearray] = field(default_factory=dict)
    to_client: bytearray = field(default_factory=bytearray)
    trouble: list[str] = field(default_factory=list)


class Driver:
    """One client's connection."""

    def __init__(self, options: Any, mode: str = "regular") -> None:
        self.flows = Flows()
        self.outcome = Outcome()
        proxy_mode = ProxyMode.parse(mode)
        client = Client(
            peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=1.0, state=ConnectionState.OPEN,
            proxy_mode=proxy_mode,
        )  # fmt: skip
        context = Context(client, options)
        self.client = client
        http_mode = HTTPMode.regular
        if mode.startswith("reverse"):
            http_mode = HTTPMode.transparent
            context.server.address = proxy_mode.address  # type: ignore[attr-defined]
        elif mode.startswith("upstream"):
            http_mode = HTTPMode.upstream
        self.layer = CacheHttpLayer(context, http_mode, self.flows)  # type: ignore[arg-type]
        self._origins: dict[object, h11.Connection] = {}
        self._partial: dict[object, Received] = {}
        self.feed(events.Start())

    def feed(self, event: events.Event) -> None:
        ctx.master.event_loop.run_until_complete(self._feed(event))

    async def _feed(self, event: events.Event) -> None:
        todo = [event]
        while todo:
            for command in self.layer.handle_event(todo.pop(0)):
                todo += self._replies(command)

    def _replies(self, command: commands.Command) -> Iterator[events.Event]:
        match command:
            case commands.SendData():
                if command.connection is self.client:
                    self.outcome.to_client += command.data
                else:
                    yield from self._at_origin(command.connection, command.data)
            case commands.OpenConnection():
                command.connection.state = ConnectionState.OPEN
                command.connection.timestamp_start = 1.0
                yield events.OpenConnectionCompleted(command, None)
            case commands.CloseTcpConnection(half_close=True):
                command.connection.state &= ~ConnectionState.CAN_WRITE
            case commands.CloseConnection():
                command.connection.state = ConnectionState.CLOSED
            case commands.StartHook():
                flow = getattr(command, "flow", None)
                if command.name == "requestheaders" and flow is not None and flow.error is None:
                    self.outcome.keys.append((flow.request.method, target_of(flow)))
                    flow.request.stream = has_body(flow)
                if command.blocking:
                    yield events.HookCompleted(command)

    def _at_origin(self, connection: Any, data: bytes) -> Iterator[events.Event]:
        raw = self.outcome.raw.setdefault(connection.id, bytearray())
        raw += data
        origin = self._origins.setdefault(connection.id, h11.Connection(h11.SERVER))
        # Targets of 8 bits are passed on, and not taken by h11.
        origin.receive_data(bytes(byte if byte < 128 else 0x78 for byte in data))
        try:
            while (got := origin.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(got, h11.Request):
                    hosts = [value for name, value in got.headers if name == b"host"]
                    self._partial[connection.id] = Received(got.method, got.target, hosts, b"")
                elif isinstance(got, h11.Data):
                    self._partial[connection.id].body += got.data
                elif isinstance(got, h11.EndOfMessage):
                    self.outcome.origins.append(self._partial.pop(connection.id))
                    origin.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
                    origin.send(h11.EndOfMessage())
                    if origin.our_state is h11.DONE:
                        origin.start_next_cycle()
                    yield events.DataReceived(connection, OK)
        except (h11.ProtocolError, NotImplementedError) as error:
            self.outcome.trouble.append(f"the origin can't read it: {error}")


def forwarded(options: Any, data: list[bytes], mode: str = "regular") -> Outcome:
    """What comes of the pieces that a client sends."""
    driver = Driver(options, mode)
    for piece in data:
        if not driver.client.state & ConnectionState.CAN_READ:
            break
        driver.feed(events.DataReceived(driver.client, piece))
    outcome = driver.outcome
    outcome.trouble += [f"{type(error).__name__}: {error}" for error in driver.flows.errors]
    for number, received in enumerate(outcome.origins):
        method, target = outcome.keys[number] if number < len(outcome.keys) else ("", None)
        if target is None:
            outcome.trouble.append("more requests than keys")
            break
        path = "".join(char if ord(char) < 128 else "x" for char in target.path)
        expected = [path.encode("utf-8", "replace")]
        if mode.startswith("upstream"):
            expected = [
                f"http://{target.authority}{path}".encode("utf-8", "replace"),
                f"http://{target.authority}".encode(),
            ]
        got_target = received.target.replace(b"xx", b"x")
        if received.method != method.encode("utf-8", "surrogateescape") or got_target not in [
            each.replace(b"xx", b"x") for each in expected
        ]:
            outcome.trouble.append(f"{received} is not {method} {target}")
        if received.host != [target.authority.encode()]:
            outcome.trouble.append(f"Host {received.host} is not of {target}")
    return outcome


def as_meant(data: bytes) -> list[Received]:
    """What a client has sent, by h11, as far as that can read it."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    found: list[Received] = []
    current = None
    try:
        while (got := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(got, h11.Request):
                current = Received(got.method, got.target, [], b"")
            elif isinstance(got, h11.Data) and current is not None:
                current.body += got.data
            elif isinstance(got, h11.EndOfMessage) and current is not None:
                found.append(current)
                parser.send(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
                parser.send(h11.EndOfMessage())
                parser.start_next_cycle()
    except (h11.ProtocolError, NotImplementedError):
        pass
    return found


# -- inputs ------------------------------------------------------------------------------------------------------------

NASTY = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b"\x0b", b"\x0c", b"\x1b", b"\x7f", b"\x80", b"\xff", b" ", b"\t",
    b"\r\n ", b":", b";", b"#", b"?", b"@", b"/", b"//", b"*", b"%00", b"HTTP/2.0", b"HTTP/1.0", b"HTTP/1.2",
    b"HTTP/0.9", b"http/1.1",
    b"Transfer-Encoding: chunked\r\n", b"\rTransfer-Encoding: chunked", b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n", b"Host: evil.example\r\n", b"Connection: close\r\n", b"Connection: content-length\r\n",
    b"Upgrade: h2c\r\n", b"0\r\n\r\n", b"GET http://evil.example/ HTTP/1.1\r\n\r\n", b"+", b"-", b"0x", b"_",
    b"CONNECT", b"head", b"get", b"Expect: 100-continue\r\n",
)  # fmt: skip
MODES = ("regular", "regular", "upstream:http://parent.example:3128", "reverse:http://origin.example:80")
METHODS = (b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"GET", b"PROPFIND", b"M-SEARCH")
HOSTS = (b"a.example", b"b.example:8080", b"127.0.0.1:81", b"[::1]:80", b"A.Example:80")


def one_request(random: random.Random) -> bytes:
    method, host = random.choice(METHODS), random.choice(HOSTS)
    path = random.choice((b"/", b"/x", b"/x?y=z", b"/a%20b", b"/x#y", b""))
    lines = [b"%b http://%b%b HTTP/1.1" % (method, host, path)]
    lines.append(b"Host: " + random.choice((host, host, b"other.example")))
    for name in (b"A", b"Cookie", b"X-Y"):
        if random.random() < 0.3:
            lines.append(name + b": " + random.choice((b"", b"1", b"a b", b"\xe9", b"a, b")))
    body = bytes(random.choices(b"abc\r\n0", k=random.choice((0, 0, 1, 5, 40))))
    if method in (b"HEAD", b"GET", b"OPTIONS"):
        body = b""
    if body and random.random() < 0.5:
        lines.append(b"Transfer-Encoding: chunked")
        cut = random.randrange(len(body))
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or random.random() < 0.3:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def mutated(random: random.Random, data: bytes) -> bytes:
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0:
                data = data[:at] + data[at + random.choice((1, 1, 2, 5)) :]
            case 1:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 2:
                breaks = [index for index in range(len(data)) if data[index : index + 2] == b"\r\n"] or [0]
                at = random.choice(breaks) + 2
                data = data[:at] + random.choice(NASTY) + data[at:]
            case _:
                data = data[:at] + random.choice(NASTY) + data[at:]
    return data


def check(options: Any, seed: int, number: int) -> str | None:
    """What is wrong with what comes of one generated input; ``None`` if nothing is."""
    rng = random.Random(f"{seed}-{number}")
    data = b"".join(one_request(rng) for _ in range(rng.choice((1, 1, 2, 3))))
    valid = number % 4 == 0
    if not valid:
        data = mutated(rng, data)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if end > start]
    mode = MODES[number % 7 % 4]
    if mode.startswith("reverse"):
        data = data.replace(b"http://a.example", b"")
        pieces = [data]
    outcome = forwarded(options, pieces, mode)
    meant = as_meant(data.lstrip(b"\r\n"))
    trouble = list(outcome.trouble)
    for received, sent in zip(outcome.origins, meant, strict=False):
        if (received.method, received.body) != (sent.method, sent.body) and b"\x80" not in data:
            body = bytes(byte if byte < 128 else 0x78 for byte in sent.body)
            if (received.method, received.body) != (sent.method, body):
                trouble.append(f"the client meant {sent}, the origin got {received}")
    if valid and not mode.startswith("reverse") and len(outcome.origins) != len(meant):
        trouble.append(f"{len(meant)} requests were sent, {len(outcome.origins)} arrived: {bytes(outcome.to_client)!r}")
    return f"input {number} ({mode}) {pieces}: {trouble}" if trouble else None


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    wrong = []
    with taddons.context(Proxyserver()) as tctx:
        for number in range(count):
            if (told := check(tctx.options, seed, number)) is not None:
                wrong.append(told)
            if number % 10_000 == 9_999:
                print(f"{number + 1} inputs, {len(wrong)} differences", flush=True)
    print("\n".join(wrong[:20]))
    print(f"{count} inputs, {len(wrong)} differences")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
