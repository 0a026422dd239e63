"""How long anybody waits for a hit while one hostile head is dealt with.

    python benchmarks/hostile.py           every shape, up to 1 MB, every way (under a minute on a quiet machine)
    python benchmarks/hostile.py --help    fewer, or another size

A process asks for one stored URL every 3 ms. Meanwhile each shape of ``tests/support/shapes.py`` is sent as the head of
a request (to the lane and to mitmproxy's path), and by an origin as the head of a response, of which what could be
stored is asked for again. The table has the longest wait of any hit for each way, and which shape it was; the last line
what there was without any of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from processes import Mitmdump, fetch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.support.shapes import SHAPES, Shape  # noqa: E402

PAUSE = 0.003
KB = 1024
Waits = list[tuple[float, float]]


def probe(port: int, url: str, stop: Event, results: multiprocessing.Queue[Waits]) -> None:
    """In a process of its own: when each hit was asked for, and how long it took."""
    waits: Waits = []
    request = f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        while not stop.is_set():
            asked = time.monotonic()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                answer += connection.recv(65536)
            waits.append((asked, time.monotonic() - asked))
            time.sleep(PAUSE)
    results.put(waits)


class HostileOrigin:
    """Answers ``/shape/NUMBER/SIZE`` with a head of that shape, anything else with a plain 200."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    received = connection.recv(1 << 16)
                    if not received:
                        return
                    data += received
                head, _, data = data.partition(b"\r\n\r\n")
                connection.sendall(self.answer(head.split(b" ")[1].decode()))
        except OSError:
            pass
        finally:
            connection.close()

    @staticmethod
    def answer(path: str) -> bytes:
        lines = b'Vary: Accept-Encoding, Accept, Prefer, TE, Accept-Language, Accept-Charset\r\nETag: "a"\r\n'
        if "/shape/" in path:
            number, size = path.split("/shape/")[1].split("/")[:2]
            lines = SHAPES[int(number)].block(int(size))
        return b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n" + lines + b"Content-Length: 2\r\n\r\nok"


def exchange(port: int, request: bytes) -> str:
    """The status line that comes of it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            try:
                connection.sendall(request)
            except OSError:
                pass  # it was refused before its end
            return connection.recv(65536)[9:12].decode("latin-1") or "closed"
    except OSError as error:
        return type(error).__name__


def requests(origin: str, number: int, shape: Shape, sizes: list[int]) -> Iterator[tuple[str, bytes]]:
    """Each way in, and what is sent."""
    for size in sizes:
        block = shape.block(size)
        label = f"{size // KB} kB"
        head = f"{origin}/request/{number}/{size} HTTP/1.1\r\nHost: x\r\n".encode()
        yield f"request, GET, {label}", b"GET " + head + block + b"\r\n"
        yield f"request, GET once more, {label}", b"GET " + head + block + b"\r\n"
        yield f"request, HEAD, {label}", b"HEAD " + head + block + b"\r\n"
        yield f"request, POST, {label}", b"POST " + head + block + b"Content-Length: 0\r\n\r\n"
        target = f"GET {origin}/shape/{number}/{size}".encode()
        yield f"response, {label}", target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        yield f"response, a hit on it, {label}", target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        yield f"response, a flow's hit on it, {label}", target + b" HTTP/1.1\r\nhost: x\r\nExpect: \r\n\r\n"
        yield (
            f"response, to a POST, {label}",
            (f"POST {origin}/shape/{number}/{size} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="15,60,250,1000", help="kB of a head, several (15,60,250,1000)")
    parser.add_argument("--shapes", default="", help="only those with this in their name")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the proxy")
    options = parser.parse_args()
    sizes = [int(size) * KB for size in options.sizes.split(",")]
    origin = HostileOrigin()
    with tempfile.TemporaryDirectory() as temporary:
        settings = [f"cache_dir={temporary}/cache", "metrics_listen=127.0.0.1:0", *options.set]
        arguments = ["-s", str(ROOT / "addons" / "cache.py")]
        arguments += [part for setting in settings for part in ("--set", setting)]
        with Mitmdump("ours", arguments, Path(temporary) / "conf", None) as proxy:
            proxy.wait_until_listening()
            for _ in range(2):
                fetch(proxy.port, f"{origin.url}/hit")
            stop = multiprocessing.Event()
            results: multiprocessing.Queue[Waits] = multiprocessing.Queue()
            url = f"{origin.url}/hit"
            process = multiprocessing.Process(target=probe, args=(proxy.port, url, stop, results))
            process.start()
            time.sleep(0.5)
            windows: list[tuple[float, float, str, str]] = []
            began = time.monotonic()
            time.sleep(5)
            windows.append((began, time.monotonic(), "nothing", ""))
            for number, shape in enumerate(SHAPES):
                if options.shapes not in shape.name:
                    continue
                for way, request in requests(origin.url, number, shape, sizes):
                    started = time.monotonic()
                    status = exchange(proxy.port, request)
                    time.sleep(2 * PAUSE)
                    windows.append((started, time.monotonic(), way, f"{shape.name} ({status})"))
            stop.set()
            report(windows, results.get())
            process.join()


def report(windows: list[tuple[float, float, str, str]], waits: Waits) -> None:
    worst: dict[str, tuple[float, str]] = {}
    at = 0
    for started, ended, way, shape in windows:
        while at < len(waits) and sum(waits[at]) < started:
            at += 1
        for asked, wait in waits[at:]:
            if asked > ended:
                break
            worst[way] = max(worst.get(way, (0.0, "")), (wait, shape))
    quiet = worst.pop("nothing", (0.0, ""))[0]
    for way, (wait, shape) in sorted(worst.items(), key=lambda item: -item[1][0]):
        print(f"{way:45} {wait * 1000:8.1f} ms  {shape}")
    longest = max((wait for wait, _ in worst.values()), default=0.0)
    print(f"{len(waits)} hits, {len(windows) - 1} hostile heads; the longest wait of any hit: {longest * 1000:.1f} ms")
    print(f"without any, over 5 s: {quiet * 1000:.1f} ms")


if __name__ == "__main__":
    main()
