"""The same bytes for h11 and for us. We refuse, or hand to mitmproxy, whatever h11 refuses; if both accept bytes, they
mean the same.

If we accept bytes that h11 refuses, a standard prescribes a repair: :func:`repaired_response` and
:func:`repaired_chunks` repair the bytes, section by section, and then h11 has to read the same as we did. If we refuse
bytes that h11 accepts, :func:`why_stricter` names the section.

``python -m tests.wire.differential 100000 [seed]`` tries as many inputs in each direction.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

import h11
import hypothesis
from hypothesis import strategies as st
from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from proxy_cache.semantics.headers import Headers, end_to_end, field_line
from proxy_cache.semantics.ranges import requested
from proxy_cache.wire.requests import UNUSUAL, parse_request
from tests.support import forwarding

from . import forwarded_reads, h11_reads, messages, ours
from .h11_reads import Head, Reading

OLD_H11: Final = tuple(map(int, h11.__version__.split(".")[:2])) < (0, 16)
_NAMED = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:(.*)", re.DOTALL)
_ABOUT_LENGTH = re.compile(rb"content-length|transfer-encoding", re.IGNORECASE)
_KEPT: Final = bytes.maketrans(b"\x0b\x0c", b"??")
"""RFC 9110 §5.5: "recipients MAY retain such characters for the sake of robustness", of control characters other than
CR, LF and NUL. h11 retains all but these two, and so do we all but none: they stand for themselves."""


# -- requests on the fast lane -------------------------------------------------------------------------------------


def check_lane(data: bytes) -> None:
    """A plain GET means the same; others are left to mitmproxy's path."""
    found = parse_request(data, ours.LIMITS)
    if found == UNUSUAL:
        return
    theirs = h11_reads.request(data)
    if found is None:
        assert theirs.outcome == "waiting", theirs
        assert theirs.head is None
        return
    assert not isinstance(found, str)
    assert theirs.refused is None, theirs.refused
    assert theirs.head is not None
    assert theirs.is_over
    assert (theirs.head.first, theirs.body) == ((b"GET", found.target.encode()), b"")
    assert theirs.head.http11 is found.http11
    assert theirs.rest == data[found.size :]
    received = Headers(theirs.head.fields)
    expected = end_to_end(received).without("host")
    if found.range is not None:  # it is kept apart from the other fields
        assert found.range_value == received.get("range")
        assert requested(received) in ((found.range,), None)  # None: the last byte is before the first
        expected = expected.without("range")
    assert found.fields.headers.fields == expected.fields
    # RFC 9112 §9.3: an HTTP/1.0 recipient may ask for keep-alive, which h11 doesn't know.
    options = [option.strip().lower() for value in received.get_all("connection") for option in value.split(",")]
    of_1_0 = not found.http11 and "keep-alive" in options and "close" not in options
    assert found.close is not (theirs.keep_alive or of_1_0)


# -- responses -----------------------------------------------------------------------------------------------------


def check_response(data: bytes, numbers: bytes, eof: bool) -> None:
    mine = ours.response(messages.in_pieces(data, numbers), eof=eof)
    theirs = h11_reads.response(data, eof=eof)
    if theirs.outcome == "refused" and mine.outcome != "refused":
        theirs = h11_reads.response(repaired_response(data), eof=eof)
        assert theirs.refused is None, f"h11 refuses it ({theirs.refused}), we read {mine}"
    elif mine.refused is not None:
        if theirs.outcome == "waiting":  # for more of a message that can't become valid
            theirs = h11_reads.response(data + b"\r\n\r\n", eof=eof)
        if theirs.refused is None:
            assert why_stricter(data, theirs), f"h11 reads {theirs}, we refuse: {mine.refused}"
        return
    assert mine.outcome == theirs.outcome, f"{mine} {theirs}"
    assert mine.body == theirs.body
    assert [_comparable(head) for head in mine.interims] == [_as_received(head) for head in theirs.interims]
    assert (mine.head is None) == (theirs.head is None)
    if mine.head is None or theirs.head is None:
        return
    assert _comparable(mine.head) == _as_received(theirs.head), f"{data!r}: {mine.head} {theirs.head}"
    if mine.is_over:
        assert mine.has_more is theirs.has_more
        may_go_on = theirs.keep_alive or _keep_alive_of_1_0(theirs)
        assert may_go_on or not mine.keep_alive
        assert mine.keep_alive or not may_go_on or _why_last(data, theirs), f"{mine} {theirs}"


def check_both_ways(data: bytes, numbers: bytes, eof: bool) -> None:
    """Fills and mitmproxy's path are two readers of ours."""
    pieces = messages.in_pieces(data, numbers)
    fills, forwarded = ours.response(pieces, eof=eof), forwarded_reads.response(pieces, eof=eof)
    if fills.outcome != forwarded.outcome and "refused" in (fills.outcome, forwarded.outcome):
        data += b"\r\n\r\n"  # one of them waits for more of a message that can't become valid
        fills, forwarded = ours.response([data], eof=eof), forwarded_reads.response([data], eof=eof)
    if fills.refused is not None and "Transfer-Encoding" in fills.refused:
        return  # codings other than chunked: fills have not asked for any, and a client may have
    assert fills.outcome == forwarded.outcome, f"{data!r}: {fills} {forwarded}"
    if fills.refused is not None:
        return
    assert fills.body == forwarded.body, f"{data!r}: {fills} {forwarded}"
    assert [head.first for head in fills.interims] == [head.first for head in forwarded.interims]
    assert (fills.head and fills.head.first) == (forwarded.head and forwarded.head.first)
    if fills.is_over and not fills.has_more:
        assert fills.keep_alive is forwarded.keep_alive, f"{data!r}: {fills} {forwarded}"


def _comparable(head: Head) -> object:
    # RFC 9112 §5.2: the white space around a fold is part of it. h11 keeps the part before the line break.
    fields = [
        (name, re.sub(rb"[ \t]+", b" ", value.translate(_KEPT)))
        for name, value in head.fields
        if name.lower() != b"content-length"
    ]
    return head.first, head.http11, fields


def _as_received(head: Head) -> object:
    """As h11 has it, without hop-by-hop fields (RFC 9110 §7.6.1). It has different lines of one length only once."""
    headers, _ = Headers.received(field_line(*each) for each in head.fields)
    return _comparable(Head(head.first, head.http11, list(headers.fields)))


def _values(head: Head, name: bytes) -> list[bytes]:
    return [
        part.strip(b" \t").lower() for key, value in head.fields if key.lower() == name for part in value.split(b",")
    ]


def _keep_alive_of_1_0(reading: Reading) -> bool:
    """RFC 9112 §9.3, on HTTP/1.0 with ``keep-alive``, which h11 doesn't know."""
    assert reading.head is not None
    options = _values(reading.head, b"connection")
    return not reading.head.http11 and b"keep-alive" in options and b"close" not in options


def _why_last(data: bytes, theirs: Reading) -> bool:
    """Why a connection ends after a response that h11 would go on after."""
    assert theirs.head is not None
    announce = [head for head in (*theirs.interims, theirs.head) if _announces(head)]
    bodiless = theirs.head.first[0] in (204, 304)
    if any(head is not theirs.head for head in announce) or (bodiless and announce):
        return True  # RFC 9112 §6.3: it has no body; one that is sent anyway would be read as the next response
    if not theirs.head.http11 and _values(theirs.head, b"transfer-encoding"):
        return True  # RFC 9112 §6.1: "as if the framing is faulty", and the connection ends
    framed = _values(theirs.head, b"content-length") or _values(theirs.head, b"transfer-encoding")
    if not framed and not bodiless:
        return True  # the end of the connection is that of the body
    return repaired_response(data) != data  # a line that is no field: its sender may see another end of the message


def _announces(head: Head) -> bool:
    lengths = _values(head, b"content-length")
    return bool(_values(head, b"transfer-encoding")) or any(length.strip(b"0") for length in lengths)


def why_stricter(data: bytes, theirs: Reading) -> str | None:
    """The section by which we refuse a response that h11 accepts."""
    head = theirs.head
    firsts = re.findall(rb"(?:^|\n)HTTP/([0-9]\.[0-9]) [0-9]{3}(?: ([^\n]*))?", data)
    if any(not version.startswith(b"1.") for version, _ in firsts):
        return "RFC 9110 §2.5: a major version that is not 1 is another protocol"
    if any(re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", reason.rstrip(b"\r")) for _, reason in firsts):
        return "RFC 9112 §4: no control characters in a reason phrase"
    heads = [*theirs.interims, *([head] if head is not None else [])]
    if any(len(length.lstrip(b"0")) > 18 for one in heads for length in _values(one, b"content-length")):
        return 'RFC 9110 §8.6: "anticipate potentially large decimal numerals and prevent parsing errors"'
    if head is None:
        return None
    lengths, codings = _values(head, b"content-length"), _values(head, b"transfer-encoding")
    if lengths and codings:
        return 'RFC 9112 §6.3: both lengths and codings "ought to be handled as an error"'
    if codings:
        body = data[re.search(rb"\n\r?\n", data).end() :]  # type: ignore[union-attr]
        return why_stricter_chunks(body[body.find(b"HTTP/1") :].partition(b"\r\n\r\n")[2] if theirs.interims else body)
    return None


# -- requests that are forwarded -----------------------------------------------------------------------------------


def check_forwarded(data: bytes, numbers: bytes) -> None:
    """mitmproxy's path sends exactly the requests to origins that h11 reads in the client's bytes."""
    outcome = forwarding.forwarded(ctx.options, messages.in_pieces(data, numbers))
    assert not outcome.trouble, f"{data!r}: {outcome.trouble}"
    # Targets of 8 bits are passed on, and not taken by h11.
    data = bytes(byte if byte < 128 else 0x78 for byte in data)
    for received in outcome.origins:
        data = data.lstrip(b"\r\n")  # RFC 9112 §2.2: a server SHOULD ignore empty lines before a request
        theirs = h11_reads.request(data)
        if theirs.refused is not None and (end := data.find(b"\r\n\r\n")) > 0:
            theirs = h11_reads.request(data[: end + 4] + repaired_chunks(data[end + 4 :], of_response=False))
        assert theirs.outcome == "over", f"{data!r}: an origin got {received}, h11 reads {theirs}"
        assert theirs.head is not None
        assert (received.method, received.body) == (theirs.head.first[0], theirs.body), f"{data!r}: {received}"
        if not (theirs.keep_alive or _keep_alive_of_1_0(theirs)):
            assert received is outcome.origins[-1], f"{data!r}: the connection ends after the first request"
        data = theirs.rest


# -- chunks --------------------------------------------------------------------------------------------------------


def check_chunks(data: bytes, numbers: bytes, of_response: bool) -> None:
    mine = ours.chunks(messages.in_pieces(data, numbers), of_response=of_response)
    theirs = h11_reads.chunks(data)
    if theirs.outcome == "refused" and mine.outcome != "refused":
        theirs = h11_reads.chunks(repaired_chunks(data, of_response=of_response))
        assert theirs.refused is None, f"h11 refuses it ({theirs.refused}), we read {mine}"
    elif mine.refused is not None:
        if theirs.outcome == "waiting":
            theirs = h11_reads.chunks(data + b"\r\n\r\n")
        if theirs.refused is None:
            assert why_stricter_chunks(data, of_response=of_response), f"h11 reads {theirs}, we refuse: {mine.refused}"
        return
    assert mine.outcome == theirs.outcome, f"{mine} {theirs}"
    assert mine.body == theirs.body
    if mine.is_over:
        assert mine.rest == theirs.rest


def _walk(data: bytes, of_size: Callable[[bytes], bytes], of_trailer: Callable[[bytes], bytes]) -> bytes:
    """A chunked body with something done to the lines before chunks, and to trailers."""
    made, at = b"", 0
    while (end := data.find(b"\r\n", at) + 2) > 1:
        line = data[at:end]
        made += of_size(line)
        size = re.match(rb"[0-9A-Fa-f]+", line)
        if size is None:
            return made + data[end:]
        if not int(size[0], 16):
            trailers = data[end:]
            while trailers and (end := trailers.find(b"\n") + 1):
                line, trailers = trailers[:end], trailers[end:]
                if line in (b"\n", b"\r\n"):
                    return made + line + trailers
                made += of_trailer(line)
            return made + trailers
        at = end + int(size[0], 16) + 2
        made += data[end:at]
    return made + data[at:]


def repaired_chunks(data: bytes, *, of_response: bool) -> bytes:
    """RFC 9112 §7.1: a size is any number of digits, zeros in front among them; h11 takes twenty. §7.1.1: bad white
    space before a semicolon is to be parsed. RFC 9110 §6.5.1: a trailer says nothing about the framing, but h11 reads
    it. Of a response also RFC 9112 §5.1: white space before a trailer's colon is removed; and VT and FF (see
    :data:`_KEPT`)."""

    def size(line: bytes) -> bytes:
        return re.sub(rb"^([0-9A-Fa-f]+)[ \t]+;", rb"\1;", re.sub(rb"^0+(?=[0-9A-Fa-f])", b"", line))

    def trailer(line: bytes) -> bytes:
        if of_response:
            line = re.sub(rb"^([^ \t:]+)[ \t]+:", rb"\1:", line).translate(_KEPT)
        return re.sub(rb"^(content-length|transfer-encoding):", b"X:", line, flags=re.IGNORECASE)

    return _walk(data, size, trailer)


def why_stricter_chunks(data: bytes, *, of_response: bool = True) -> str | None:
    """The section by which we refuse chunks that h11 accepts."""
    found: list[str] = []
    in_trailers = False

    def size(line: bytes) -> bytes:
        digits = re.match(rb"[0-9A-Fa-f]*", line)
        assert digits is not None
        if re.search(rb"[\0-\x08\x0a-\x1f\x7f]", line[:-2]):
            found.append("RFC 9112 §7.1.1: no control characters in chunk extensions")
        if len(digits[0].lstrip(b"0")) > 15:
            found.append('RFC 9112 §7.1: "prevent parsing errors due to integer conversion overflows"')
        return line

    def trailer(line: bytes) -> bytes:
        nonlocal in_trailers
        if line[:1] in (b" ", b"\t"):
            found.append(
                'RFC 9112 §5.2: no folded lines (of responses "discard" is as good as a space; of trailers all is)'
            )
        if not of_response and not line.endswith(b"\r\n"):
            found.append("RFC 9112 §2.2: a bare LF MAY be recognized, and is not from clients")
        if not of_response and re.search(rb"[\0-\x08\x0b-\x1f\x7f]", line[:-2]):
            found.append("RFC 9110 §5.5: no control characters in fields of clients")
        return line

    walked = _walk(data, size, trailer)
    assert walked == data
    if not of_response and re.search(rb"(^|\n)0+[ \t]*(;[^\n]*)?\r\n(.*\n)?\n", data, re.DOTALL):
        found.append("RFC 9112 §2.2: a bare LF MAY be recognized, and is not from clients")
    if OLD_H11 and not found and _has_bad_footer(data):
        found.append("RFC 9112 §7.1: chunk-data is followed by CRLF (CVE-2025-43859)")
    return found[0] if found else None


def _has_bad_footer(data: bytes) -> bool:
    at = 0
    while (end := data.find(b"\r\n", at) + 2) > 1:
        size = re.match(rb"[0-9A-Fa-f]+", data[at:end])
        if size is None or not int(size[0], 16):
            return False
        at = end + int(size[0], 16) + 2
        footer = data[at - 2 : at]
        if footer != b"\r\n"[: len(footer)]:
            return True
    return False


# -- repairs that a standard prescribes ----------------------------------------------------------------------------


def repaired_response(data: bytes) -> bytes:
    """A response as we read it, in words that h11 knows."""
    made = b""
    while True:
        # RFC 9112 §2.2 asks servers to ignore empty lines before a request; some servers send them before a response.
        data = data.lstrip(b"\r\n")
        found = re.search(rb"\n\r?\n", data)
        if found is None:
            return made + data
        head, data = data[: found.end()], data[found.end() :]
        first, *lines = [line.removesuffix(b"\r") for line in head.split(b"\n")[:-2]]
        fields = _repaired_fields(lines)
        codings = [
            coding for name, value in fields if name.lower() == b"transfer-encoding" for coding in value.split(b",")
        ]
        listed = [coding.strip(b" \t").lower() for coding in codings if coding.strip(b" \t")]
        if codings and listed in ([b"chunked"], [b"identity"], []):
            # RFC 9110 §5.6.1: empty elements of a list don't count; RFC 9112 §7: identity was no coding ever.
            fields = [(name, value) for name, value in fields if name.lower() != b"transfer-encoding"]
            fields += [(b"Transfer-Encoding", b"chunked")] if listed == [b"chunked"] else []
        if re.match(rb"HTTP/1\.[0-9] (1..|204|304)", first):
            # RFC 9112 §6.3, the first rule: it ends with its head, whatever codings that names.
            fields = [(name, value) for name, value in fields if name.lower() != b"transfer-encoding"]
        made += b"\r\n".join([first, *(name + b": " + value for name, value in fields), b"", b""])
        if re.match(rb"HTTP/1\.[0-9] 1(?!01)", first):
            continue
        return made + (repaired_chunks(data, of_response=True) if listed == [b"chunked"] else data)


def _repaired_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    was_field = False
    for line in lines:
        named = _NAMED.fullmatch(line)
        if line[:1] in (b" ", b"\t") and was_field:
            # RFC 9112 §5.2: "replace each received obs-fold with one or more SP octets"
            fields[-1] = fields[-1][0], fields[-1][1] + b" " + line.strip(b" \t")
        elif line[:1] in (b" ", b"\t") and not _ABOUT_LENGTH.search(line):
            was_field = False  # RFC 9112 §2.2: white space in front before the first field: ignored
        elif named is not None and line[:1] not in (b" ", b"\t"):
            was_field = True
            # RFC 9112 §5.1: "A proxy MUST remove any such whitespace"
            fields.append((named[1], named[2].strip(b" \t")))
        elif _ABOUT_LENGTH.search(line):
            fields.append((b"no field", line))  # h11 refuses it, and so do we
        else:
            was_field = False  # no standard has a rule for it: see semantics/field_lines.py
    # RFC 9110 §5.5: "replace each of those characters with SP"; VT and FF: see _KEPT.
    spaced = [(name, value.translate(bytes.maketrans(b"\r\0", b"  ")).strip(b" ")) for name, value in fields]
    fields = [(name, value.translate(_KEPT)) for name, value in spaced]
    # RFC 9110 §8.6: any number of digits.
    return [
        (name, b",".join(part.strip(b" \t").lstrip(b"0") or b"0" for part in value.split(b",")))
        if name.lower() == b"content-length" and re.fullmatch(rb"[0-9, \t]+", value) and b",," not in value
        else (name, value)
        for name, value in fields
    ]


# -- running -------------------------------------------------------------------------------------------------------

DIRECTIONS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "requests on the fast lane": (check_lane, (messages.fuzzed(messages.gets),)),
    "requests that are forwarded": (check_forwarded, (messages.fuzzed(messages.forwarded_requests), messages.cuts)),
    "responses": (
        check_response,
        (messages.fuzzed(messages.responses), messages.cuts, st.booleans()),
    ),
    "responses on both ways": (check_both_ways, (messages.fuzzed(messages.responses), messages.cuts, st.booleans())),
    "chunks": (check_chunks, (messages.fuzzed(messages.chunked_body, 24), messages.cuts, st.booleans())),
}


def run(direction: str, count: int, seed: int | None = None) -> None:
    """Raises ``AssertionError`` with the smallest input that is read differently."""
    check, strategies = DIRECTIONS[direction]
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=seed is None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )  # fmt: skip
    test = hypothesis.given(*strategies)(check)
    with taddons.context(Proxyserver()):
        (settings(test) if seed is None else hypothesis.seed(seed)(settings(test)))()


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for direction in sys.argv[3:] or DIRECTIONS:
        run(direction, count, seed)
        print(f"{direction}: {count} inputs, no difference", flush=True)


if __name__ == "__main__":
    main()
