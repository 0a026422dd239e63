"""ClientHellos and CONNECTs with something changed, by the ten thousand.

    python tests/fuzz.py               100,000 of each, every way (about 20 minutes on a quiet core)
    python tests/fuzz.py --help        fewer, or one part alone

``readers``: what we make of them beside OpenSSL and mitmproxy. ``hellos`` and ``connects``: each in a connection of its
own to a real mitmdump that intercepts, in a network of its own: whatever a byte makes of a name, nothing else can be
reached. After each batch nothing may be left of its clients. It ends by itself; the status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.support import hostile  # noqa: E402
from tests.support.certificates import self_signed  # noqa: E402
from tests.support.hellos import cut, mutated, recorded  # noqa: E402
from tests.support.own_network import INSIDE, command_inside, up  # noqa: E402
from tests.support.proxy import SCRIPTS, Proxy  # noqa: E402
from tests.support.readers import (  # noqa: E402
    OpenSsl,
    mutated_connect,
    parse_client_hello,
    wrong_about_connect,
    wrong_about_hello,
    wrong_in_pieces,
)

PARTS = ("readers", "hellos", "connects")
BATCH = 5000
GROWTH = 24 << 20
"""Bytes of memory that may be between an eighth of all and the end."""


class TimeIsUp(Exception):
    pass


class Fuzz:
    def __init__(self, count: int, seed: int, folder: Path, deadline: float) -> None:
        self.count, self.seed, self.folder, self.deadline = count, seed, folder, deadline
        self.wrong: list[str] = []

    def say(self, told: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)

    def found(self, wrong: Iterable[str]) -> None:
        for each in wrong:
            self.wrong.append(each)
            if len(self.wrong) <= 20:
                print(f"  WRONG: {each[:8000]}", flush=True)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeIsUp

    # -- without a connection ---------------------------------------------------------------------------------------

    def readers(self) -> None:
        chance = random.Random(self.seed)
        openssl = OpenSsl(self_signed(self.folder / "own.pem", "a.example"))
        hellos = list(recorded().values())
        kinds: Counter[str] = Counter()
        for number in range(self.count):
            data = mutated(chance, hellos)
            found = parse_client_hello(data)
            told = wrong_about_hello(data, openssl) or wrong_in_pieces(cut(chance, data), found)
            kinds[found if isinstance(found, str) else type(found).__name__] += 1
            self.found([f"{told}: {data.hex()}"] if told else ())
            if number % 1000 == 0:
                self.check_time()
        self.say(f"readers: {self.count} hellos: {dict(kinds)}")
        for number in range(self.count):
            data = mutated_connect(chance)
            told = wrong_about_connect(data)
            self.found([f"{told}: {data!r}"] if told else ())
            if number % 1000 == 0:
                self.check_time()
        self.say(f"readers: {self.count} CONNECTs")

    # -- over the wire ----------------------------------------------------------------------------------------------

    def hellos(self) -> None:
        chance = random.Random(self.seed)
        with listening() as port, self.proxy(intercept_hosts="localhost") as proxy:
            talks = hostile.about_hellos(chance, list(recorded("localhost").values()), port, self.count)
            self.batches("hellos", proxy, talks)
            counted = sum(
                proxy.value("intercepts_total", outcome=outcome)
                for outcome in ("intercepted", "resumed", "tunnelled", "refused", "failed", "distrusted", "fallback")
            )
            if counted != self.count:
                self.found([f"{self.count} CONNECTs, and {counted} outcomes"])

    def connects(self) -> None:
        """Half of them where all hosts are intercepted, half where none is."""
        hellos = list(recorded().values())
        for hosts in ("*", ""):
            chance = random.Random(f"{self.seed} {hosts}")

            def talks(chance: random.Random = chance) -> Iterator[hostile.Conversation]:
                for _ in range(self.count // 2):
                    data = mutated_connect(chance)
                    if chance.random() < 0.3:
                        data += chance.choice(hellos)
                    yield hostile.Conversation(cut(chance, data), resets=chance.random() < 0.1)

            with self.proxy(**({"intercept_hosts": hosts} if hosts else {})) as proxy:
                self.batches(f"connects, intercepted: {hosts or 'none'}", proxy, talks())

    @contextmanager
    def proxy(self, **options: Any) -> Iterator[Proxy]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with Proxy(
            folder,
            execute=True,
            scripts=[SCRIPTS / "insides.py"],
            intercept_fallback=False,
            access_log=False,
            **options,
        ) as proxy:
            yield proxy

    def batches(self, name: str, proxy: Proxy, talks: Iterable[hostile.Conversation]) -> None:
        talks = iter(talks)
        insides = int(proxy.wait_for_log(r"test insides on port (\d+)")[1])
        first: Left | None = None
        early = memory = done = 0
        answers: Counter[str] = Counter()
        while batch := list(islice(talks, min(BATCH, max(100, self.count // 20)))):
            self.check_time()
            account = hostile.talk(proxy.address, batch)
            self.found(account.wrong)
            answers += account.answers
            done += len(batch)
            try:
                left = when_drained(proxy, insides, first)
                first = first or left
            except AssertionError as error:
                self.found([f"{name}: after {done}: {error}"])
                break
            memory = proxy.anonymous_memory()
            if not early and done >= self.count // 8:
                early = memory
            told = f"{left.descriptors} descriptors, {left.tasks} tasks, {memory >> 20} MB"
            self.say(f"{name}: {done}, {told}, {dict(answers)}")
            time.sleep(0.5)  # others use this machine, too
        if proxy.value("hook_errors_total"):
            self.found([f"{name}: errors in hooks"])
        if early and memory - early > GROWTH:
            self.found([f"{name}: {early >> 20} MB after an eighth of all, {memory >> 20} MB in the end"])


@dataclass(frozen=True)
class Left:
    """What a proxy has without clients."""

    descriptors: int
    tasks: int


def when_drained(proxy: Proxy, insides: int, before: Left | None) -> Left:
    """Wait until nothing of the clients is left. Raises ``AssertionError``."""
    proxy.eventually(lambda: proxy.status()["tunnels"], lambda left: not left, told="tunnels")
    proxy.eventually(lambda: proxy.status()["requests_in_flight"], lambda left: not left, told="requests")
    if before is not None:
        most = before.descriptors + 3, before.tasks + 2
        proxy.eventually(lambda: len(proxy.open_files()), lambda now: now <= most[0], told="open descriptors")
        proxy.eventually(lambda: inside(insides)["tasks"], lambda now: now <= most[1], told="tasks")
    return Left(len(proxy.open_files()), inside(insides)["tasks"])


def inside(port: int) -> Any:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rw") as stream:
        stream.write("counts\n")
        stream.flush()
        return json.loads(stream.readline())


@contextmanager
def listening() -> Iterator[int]:
    """The port of a server in a thread that hears all and says nothing."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(hostile.swallow, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000, help="of each (100000)")
    parser.add_argument("--part", action="append", choices=PARTS, help="this one alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="it ends then, whatever is left (60)")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            command = command_inside(folder, [sys.executable, __file__, *sys.argv[1:]])
            return subprocess.call(command, cwd=ROOT, env={**os.environ, INSIDE: "1"})
    up()
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without its proxy
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(options.count, options.seed, Path(folder), time.monotonic() + options.minutes * 60)
        try:
            for part in options.part or PARTS:
                getattr(fuzz, part)()
        except TimeIsUp:
            fuzz.found([f"{options.minutes:g} minutes are over"])
    print(f"{len(fuzz.wrong)} wrong")
    return bool(fuzz.wrong)


if __name__ == "__main__":
    sys.exit(main())
