"""Users: who a request is from, where clients have to prove it (mitmproxy's option ``proxyauth``, RFC 9110 §11.7).

Whether a credential is good is mitmproxy's to say, by a password file, a directory or a password of the option. That
may take a quarter of a second of computing, or a question to a server: it is asked once, in a thread, and remembered
by a keyed digest, so that no password is kept here. The user is then the client, for fairness, the log and rules.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from secrets import token_bytes
from typing import Final, Protocol, TypeAlias
from weakref import WeakValueDictionary

from ..semantics.client_names import user_name
from ..semantics.keys import Target
from ..wire.requests import Request
from .peer_requests import PeerRequests

GOOD_MAX: Final = 4096
"""Credentials that are remembered as good, and"""
BAD_MAX: Final = 1024
"""as bad ones, which push no good one out."""
BAD_FOR: Final = 10.0
"""Seconds: a password may have been changed. Until then whoever tries a wrong one again and again costs nothing."""
PATIENCE: Final = 30.0
"""Seconds that a check may take. A directory that does not answer lets nobody in."""
REFUSED: Final = ""
"""In place of a name."""

Parse: TypeAlias = Callable[[str], tuple[str, str]]
"""User and password of a field's value. Raises ``ValueError``."""
Validate: TypeAlias = Callable[[str, str], bool]
"""Whether a password is the user's. Blocks; may raise anything, which is a no."""


class Asking(Protocol):
    """The connection of a request that is to be told whose it is."""

    address: str
    client: str
    absolute: bool
    """Whether the proxy is one to its clients, and doesn't stand in for an origin."""
    peers: PeerRequests


class Users:
    """Knows them by their credentials."""

    def __init__(self) -> None:
        self.is_on = False
        """Whether clients have to say who they are."""
        self._parse: Parse | None = None
        self._validate: Validate | None = None
        self._secret = token_bytes(32)
        self._good: dict[bytes, str] = {}
        self._bad: dict[bytes, float] = {}
        """Until when (monotonic clock)."""
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By address; each is there while somebody waits for it."""
        self._generation = 0
        self._thread: ThreadPoolExecutor | None = None
        self._one_at_a_time = threading.Lock()
        """mitmproxy's connection to a directory is made for one question at a time."""

    def use(self, parse: Parse, validate: Validate) -> None:
        """Ask these from now on; what they said before is forgotten."""
        self._parse, self._validate = parse, validate
        self.is_on = True
        self.forget()

    def switch_off(self) -> None:
        self.is_on = False
        self._parse = self._validate = None
        self.forget()

    def forget(self) -> None:
        """Another option, another file, or long ago."""
        self._generation += 1
        self._good.clear()
        self._bad.clear()
        self._running.clear()

    def close(self) -> None:
        """Nobody is let in any more."""
        self._validate = None
        self.forget()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    # -- whose a request is ---------------------------------------------------------------------------------------

    def identify(self, asking: Asking, request: Request, target: Target, credential: str) -> bool | None:
        """Whether a request of a lane's may go on; ``None``: not known before :meth:`check`. ``False``: mitmproxy has
        to ask for a credential (407).

        A peer proves itself by Cache-Peer. It has asked its client for the credential, which ends there.
        """
        if (
            request.peer is not None
            and asking.absolute
            and asking.peers.proves(request.peer, request.fields.for_peer()[1], target, asking.address)
        ):
            asking.client = asking.address
            return True
        if not credential or not asking.absolute:
            return False
        name = self.known(credential)
        if not name:
            return None if name is None else False
        request.user = asking.client = name
        return True

    # -- credentials ----------------------------------------------------------------------------------------------

    def known(self, credential: str) -> str | None:
        """The name of the user with this credential, a field's value; :data:`REFUSED`; ``None``: it was not
        checked."""
        parsed = self._parsed(credential)
        return REFUSED if parsed is None else self._remembered(self._digest(*parsed))

    async def check(self, credential: str, address: str, then: Callable[[], None]) -> None:
        """Have it known, and call ``then``, whatever it is."""
        try:
            await self.ask(credential, address)
        finally:
            then()

    async def ask(self, credential: str, address: str) -> str:
        """The name of its user, or :data:`REFUSED`; ``address``: whose it is. Never raises.

        Those who ask about one at the same time wait for one answer. Each address has one check at a time: whoever
        tries one password after the other holds up nobody but clients of the same address.
        """
        parsed = self._parsed(credential)
        if parsed is None:
            return REFUSED
        digest = self._digest(*parsed)
        name = self._remembered(digest)
        if name is not None:
            return name
        if digest in self._running:
            return await self._verdict(digest, *parsed)
        turn = self._turns.get(address)
        if turn is None:
            turn = self._turns[address] = asyncio.Lock()
        async with turn:
            name = self._remembered(digest)  # while this has waited
            return await self._verdict(digest, *parsed) if name is None else name

    async def _verdict(self, digest: bytes, user: str, password: str) -> str:
        generation = self._generation
        running = self._running.get(digest)
        if running is None:
            running = self._running[digest] = self._in_thread(user, password)
        try:
            is_good = await asyncio.wait_for(asyncio.shield(running), PATIENCE)
        except TimeoutError:
            is_good = False
        if generation != self._generation:
            return REFUSED  # of another option's: it is asked about again
        self._running.pop(digest, None)
        return self._remember(digest, user, is_good)

    def accepts(self, user: str, password: str) -> bool:
        """For mitmproxy, which can't wait: asks at once, if nobody has before."""
        digest = self._digest(user, password)
        name = self._remembered(digest)
        if name is None:
            name = self._remember(digest, user, self._is_good(user, password))
        return name != REFUSED

    def _in_thread(self, user: str, password: str) -> asyncio.Future[bool]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "proxy-cache-users")
        return asyncio.get_running_loop().run_in_executor(self._thread, self._is_good, user, password)

    def _parsed(self, credential: str) -> tuple[str, str] | None:
        try:
            return None if self._parse is None else self._parse(credential)
        except ValueError:
            return None

    def _digest(self, user: str, password: str) -> bytes:
        text = f"{len(user)}:{user}{password}".encode("utf-8", "surrogatepass")
        return blake2b(text, key=self._secret, digest_size=32).digest()

    def _remembered(self, digest: bytes) -> str | None:
        name = self._good.get(digest)
        if name is not None:
            return name
        until = self._bad.get(digest)
        return REFUSED if until is not None and until > time.monotonic() else None

    def _remember(self, digest: bytes, user: str, is_good: bool) -> str:
        if is_good:
            name = user_name(user)
            _make_room(self._good, GOOD_MAX)
            self._good[digest] = name
            return name
        self._bad.pop(digest, None)
        _make_room(self._bad, BAD_MAX)
        self._bad[digest] = time.monotonic() + BAD_FOR
        return REFUSED

    def _is_good(self, user: str, password: str) -> bool:
        validate = self._validate
        if validate is None:
            return False
        try:
            with self._one_at_a_time:
                return bool(validate(user, password))
        except Exception:  # as mitmproxy has it. A message may quote the credential
            return False


def _make_room(remembered: dict[bytes, str] | dict[bytes, float], most: int) -> None:
    """The oldest goes."""
    while len(remembered) >= most:
        del remembered[next(iter(remembered))]
