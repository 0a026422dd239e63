"""An origin that answers ranges as no origin should, and some do: each way was seen in somebody's bug report."""

from __future__ import annotations

import asyncio
import email.utils
import re
from dataclasses import dataclass
from typing import Final

from .content import content
from .origin import Gate, Origin, Reply, Request

STRONG: Final = (("ETag", '"v1"'),)
WEAK: Final = (("ETag", 'W/"v1"'),)
UNQUOTED: Final = (("ETag", "21293ded"),)
UNQUOTED_AND_DATE: Final = (("ETag", "21293ded"), ("Last-Modified", "Mon, 05 Jan 2026 10:00:00 GMT"))
NO_VALIDATOR: Final[tuple[tuple[str, str], ...]] = ()

ERRORS_PAST_THE_END: Final = {"416 past the end": 416, "400 past the end": 400, "404 past the end": 404,
                              "500 past the end": 500}  # fmt: skip
ERRORS: Final = {"404": 404, "403": 403, "410": 410, "416": 416, "501": 501, "503": 503}
WAYS: Final = (
    "right", "chunked", "ignores ranges", "unknown length", "half", "tiny", "earlier", "longer", "elsewhere",
    "multipart", "200 with Content-Range", "the length of the whole", "no Content-Range", "two Content-Ranges",
    "another length each time", "another length, in chunks", "another tag each time", "no date again", "cut",
    *ERRORS_PAST_THE_END, *ERRORS,
)  # fmt: skip


@dataclass
class Odd:
    """One object, and how ranges of it are answered."""

    way: str
    size: int
    seed: str
    headers: tuple[tuple[str, str], ...] = ()
    gate: Gate | None = None
    """Nothing is answered before it opens."""

    @property
    def body(self) -> bytes:
        return content(self.seed, self.size)


class OddOrigin(Origin):
    """``url = origin.answer("/x", Odd("tiny", 1000, "seed"))``. A request without Range gets all of it."""

    def __init__(self) -> None:
        super().__init__()
        self._odd: dict[str, Odd] = {}
        self._count = 0

    def answer(self, target: str, odd: Odd) -> str:
        self._odd[target] = odd
        return self.url(target)

    async def _send(
        self, request: Request, reply: Reply, writer: asyncio.StreamWriter, gone: asyncio.Future[bytes]
    ) -> bool:
        odd = self._odd.get(request.target)
        if odd is None or request.method != "GET":
            return await super()._send(request, reply, writer, gone)
        if odd.gate is not None:
            await self._or_gone(odd.gate.passed(), gone)
        self._count += 1
        status, fields, body, cut = respond(odd, request.header("Range"), request.header("If-Range"), self._count)
        if "chunked" in dict(fields).get("Transfer-Encoding", ""):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        elif "Content-Length" not in dict(fields):
            fields = [*fields, ("Content-Length", str(len(body)))]
        head = [f"HTTP/1.1 {status} Told so", *(f"{name}: {value}" for name, value in fields), "", ""]
        writer.write("\r\n".join(head).encode("latin-1") + (body[: len(body) // 2] if cut else body))
        await writer.drain()
        with self._changed:
            request.sent = len(body)
            request.answered = True
            self._changed.notify_all()
        return not cut and odd.way != "the length of the whole"


def respond(
    odd: Odd, wanted: str | None, condition: str | None, number: int
) -> tuple[int, list[tuple[str, str]], bytes, bool]:
    """Status, header, body, and whether only half of the body is sent."""
    body, size, way = odd.body, odd.size, odd.way
    fields = [("Cache-Control", "max-age=600"), ("Accept-Ranges", "bytes"), *odd.headers]
    if way == "another tag each time" and wanted:
        fields = [*[field for field in fields if field[0] != "ETag"], ("ETag", f'"{number}"')]
    fields.append(("Date", email.utils.formatdate(usegmt=True)))
    if way == "another length, in chunks" or (way == "chunked" and wanted):
        fields.append(("Transfer-Encoding", "chunked"))
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    tags = [value for name, value in fields if name in ("ETag", "Last-Modified")]
    if way == "no date again" and condition in tags:
        fields = [field for field in fields if field[0] != "Last-Modified"]
    if found is None or way == "ignores ranges" or (condition is not None and condition not in tags):
        return 200, fields, body, False
    if way in ERRORS:
        if way == "416":
            fields.append(("Content-Range", f"bytes */{size}"))
        return ERRORS[way], fields, b"no", False
    if found[1]:
        start, last = int(found[1]), int(found[2] or size - 1)
    else:
        start, last = max(0, size - int(found[2])), size - 1
    if start >= size or (last >= size and way in ERRORS_PAST_THE_END):
        fields.append(("Content-Range", f"bytes */{size}"))
        return ERRORS_PAST_THE_END.get(way, 416), fields, b"no", False
    stop = min(last + 1, size)
    if way == "half":
        stop = start + max(1, (stop - start) // 2)
    elif way == "tiny":
        stop = min(stop, start + 10)
    elif way == "earlier":
        start = max(0, start - 3)
    elif way == "longer":
        stop = min(size, stop + 3)
    elif way == "elsewhere":
        start, stop = (0, min(7, size)) if start else (size - 1, size)
    part, said = body[start:stop], f"bytes {start}-{stop - 1}/{'*' if way == 'unknown length' else size}"
    if way.startswith("another length"):
        said = f"bytes {start}-{stop - 1}/{size + number}"
    if way == "multipart":
        fields.append(("Content-Type", "multipart/byteranges; boundary=XX"))
        part = f"--XX\r\nContent-Range: {said}\r\n\r\n".encode() + part + b"\r\n--XX--\r\n"
        return 206, fields, part, False
    if way != "no Content-Range":
        fields.append(("Content-Range", said))
    if way == "two Content-Ranges":
        fields.append(("Content-Range", said))
    if way == "the length of the whole":
        fields += [("Content-Length", str(size)), ("Connection", "close")]
    return 200 if way == "200 with Content-Range" else 206, fields, part, way == "cut"
