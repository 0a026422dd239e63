"""Clients by the thousand that don't mean it: each says what it has to say, and leaves, one way or another."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from .hellos import cut, mutated
from .origin import PATIENCE

AT_ONCE = 12
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Conversation:
    """``connect``: the head of a CONNECT that has to be answered 200 before anything else is said."""

    pieces: list[bytes]
    connect: bytes = b""
    resets: bool = False
    """Whether the client leaves by a reset, and takes no answer."""


@dataclass
class Account:
    """``answers``: how many of which kind there were."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def about_hellos(chance: random.Random, hellos: list[bytes], port: int, count: int) -> Iterable[Conversation]:
    """Mutated hellos in tunnels to ``localhost``."""
    head = b"CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % (port, port)
    for _ in range(count):
        yield Conversation(cut(chance, mutated(chance, hellos)), head, chance.random() < 0.1)


def talk(address: tuple[str, int], conversations: Iterable[Conversation]) -> Account:
    """Have them all, some at once."""
    return asyncio.run(_all(address, conversations))


async def _all(address: tuple[str, int], conversations: Iterable[Conversation]) -> Account:
    account, left = Account(), iter(conversations)

    async def one_after_the_other() -> None:
        for conversation in left:
            try:
                async with asyncio.timeout(PATIENCE):
                    account.answers[await _have(address, conversation)] += 1
            except (OSError, AssertionError, asyncio.IncompleteReadError) as error:
                account.wrong.append(f"{type(error).__name__} {error}: {conversation}")

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return account


async def _have(address: tuple[str, int], conversation: Conversation) -> str:
    """The kind of answer."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        if conversation.connect:
            writer.write(conversation.connect)
            head = await reader.readuntil(HEAD_END)
            assert head.startswith(b"HTTP/1.1 200 "), head
        answer = b""
        with suppress(OSError):  # it was told to go before it had said all
            for piece in conversation.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if conversation.resets:
                option = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                return "reset"
            writer.write_eof()
            while data := await reader.read(65536):
                answer += data
        return _kind(answer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _kind(answer: bytes) -> str:
    if answer.startswith(b"HTTP/1.1 "):
        return answer[9:12].decode("latin-1")
    if answer[:1] == b"\x16":
        return "TLS"
    if answer[:1] == b"\x15":
        return "alert"
    return "other" if answer else "nothing"


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The end of a tunnel: hears all, and says nothing."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()
