"""Who may go where, asked at the two places where it is decided: at the door, by what a request says, and before an
address is dialled, by that address.

The second look is the one that counts. A name may have other addresses a moment after it was looked up, so that only
the address that is about to be dialled can be checked. Behind a parent proxy there is no second look: the parent
resolves names, and the door has to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from ..semantics.keys import Target
from ..semantics.texts import brief
from .destinations import CLIENT, Denial, Destinations, Way
from .peers.local import is_here
from .special_addresses import IPAddress, canonical

TOLD_FOR: Final = 60.0
"""Seconds for which the log is silent about a destination that was refused."""
REMEMBERED_MAX: Final = 4096
"""Hosts with their ports that have passed the door, and those that the log has told of."""
HOST_MAX: Final = 256
"""Characters of the longest one."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Denied(OSError):
    """A connection that must not be opened. Its text is for the client: without an address."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(f"{denial.error}: {denial.detail}")
        self.denial = denial


class Access:
    """The rules in force. ``on_denied(reason)`` is called for each refusal."""

    def __init__(self, on_denied: Callable[[str], None] = lambda reason: None) -> None:
        self.destinations = Destinations()
        self.passed: set[tuple[str, int]] = set()
        """Hosts and ports that requests may name: for the rest their addresses decide."""
        self._dialled: set[tuple[str, int, str, Way]] = set()
        """Hosts and ports with addresses of theirs that may be dialled."""
        self.changed_at = 0.0
        """When the rules last changed (wall clock): connections from before may go where none may go now."""
        self.listening_on: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        """The addresses and ports that this proxy listens on."""
        self._on_denied = on_denied
        self._told: dict[tuple[str, str], float] = {}

    def use(self, destinations: Destinations) -> bool:
        """New rules, from now on. Whether they differ from the ones before."""
        if destinations == self.destinations:
            return False
        self.destinations = destinations
        self.forget()
        self.changed_at = time.time()
        return True

    def forget(self) -> None:
        """Something has changed, perhaps where this proxy listens."""
        self.passed.clear()
        self._dialled.clear()

    # -- at the door ----------------------------------------------------------------------------------------------

    def refuses(self, target: Target) -> Denial | None:
        """Why no request for this target is accepted, if so. Not counted: the caller may be asking for itself."""
        denial = self.destinations.at_door(target.host, target.port, Way.REQUEST)
        if denial is None and len(target.host) <= HOST_MAX:
            if len(self.passed) >= REMEMBERED_MAX:
                self.passed.clear()
            self.passed.add((target.host, target.port))
        return denial

    def refuses_connect(self, host: str, port: int) -> Denial | None:
        """The same for a CONNECT. One that is intercepted dials nothing yet, so that our own listeners are looked for
        here as well."""
        return self.destinations.at_door(host.lower(), port, Way.CONNECT, lambda address: self._is_own(address, port))

    # -- before dialling ------------------------------------------------------------------------------------------

    def allowed(self, host: str, port: int, way: Way, found: Sequence[T], address_of: Callable[[T], str]) -> list[T]:
        """Of what a name was ``found`` to be, that which may be dialled. Raises :class:`Denied` if nothing is left."""
        allowed: list[T] = []
        last: Denial | None = None
        for each in found:
            known = host, port, address_of(each), way
            if known not in self._dialled:
                denial = self._of_address(*known)
                if denial is not None:
                    last = denial
                    continue
                if len(self._dialled) >= REMEMBERED_MAX:
                    self._dialled.clear()
                self._dialled.add(known)
            allowed.append(each)
        if last is not None and not allowed:
            self.denied(last, host, port)
            raise Denied(last)
        return allowed

    def _of_address(self, host: str, port: int, text: str, way: Way) -> Denial | None:
        destinations = self.destinations
        if destinations.is_named(host, port):
            return None
        try:
            address = canonical(text)
        except ValueError:  # nothing that we know of, and nothing that rules could be asked about
            return Denial("address", "destination_ip_prohibited", "no IP address")
        return destinations.of_address(host, port, address, way, lambda: self._is_own(address, port))

    def _is_own(self, address: IPAddress, port: int) -> bool:
        listening = [(on, listens_at) for on, listens_at in self.listening_on() if listens_at == port]
        if address.is_unspecified:  # which the kernel takes for loopback
            return bool(listening)
        try:
            return is_here(str(address), port, listening)
        except ValueError:  # listening on a name, perhaps of this very address
            return True

    # -- clients --------------------------------------------------------------------------------------------------

    def client_denied(self, client: str) -> None:
        """A client is not served (``access_clients``)."""
        self._tell(CLIENT.reason, client, f"proxy-cache: refused client {brief(client)}: {CLIENT.why}")

    # -- telling --------------------------------------------------------------------------------------------------

    def denied(self, denial: Denial, host: str, port: int) -> None:
        """Count a refusal, and tell why, once a minute and destination: a client may ask any number of times, and the
        access log has a line for each."""
        name = brief(f"{host}:{port}", HOST_MAX)
        self._tell(denial.reason, name, f"proxy-cache: refused to go to {name}: {denial.why}")

    def _tell(self, reason: str, whom: str, message: str) -> None:
        self._on_denied(reason)
        key, now = (reason, whom), time.monotonic()
        if now < self._told.get(key, 0.0):
            return
        if len(self._told) >= REMEMBERED_MAX:
            self._told.clear()
        self._told[key] = now + TOLD_FOR
        logger.info("%s", message)
