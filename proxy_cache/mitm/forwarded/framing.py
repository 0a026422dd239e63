"""The length of a forwarded response, made as plain as for fills (RFC 9112 §6).

mitmproxy goes by the same fields again, here and towards the client: nothing odd may be left in them by then.
"""

from __future__ import annotations

from mitmproxy import http

from ...semantics.headers import Headers
from ...wire.head_checks import RefusedHead
from ...wire.responses import OriginError, content_length


def settle_framing(response: http.Response) -> bool:
    """Mend the fields that speak of the body's length. Whether the connection has to end with this response. Raises
    :class:`RefusedHead`."""
    fields = response.headers
    try:
        length = content_length(Headers(fields.fields))
    except OriginError as error:
        raise RefusedHead(502, error.error, error.detail) from error
    if length is not None and fields.get_all("content-length") != [str(length)]:
        fields["Content-Length"] = str(length)  # RFC 9112 §6.3: the same several times is the same once
    coded = "transfer-encoding" in fields
    status = response.status_code
    if 100 <= status < 200 or status in (204, 304):
        announced = bool(length) or coded
        if coded:
            # RFC 9112 §6.1: not in a 1xx or 204. In a 304 it speaks of what a 200 would have been; mitmproxy would send
            # the end of a chunked body behind it.
            del fields["Transfer-Encoding"]
        if status != 304 and length:
            del fields["Content-Length"]  # RFC 9110 §8.6: not in a 1xx or 204
        # What it announces may come all the same, and would be taken for the next response.
        return announced and status != 101
    if coded and response.http_version == "HTTP/1.0":
        # RFC 9112 §6.1: such a message is to be treated "as if the framing is faulty", and the connection ends with it.
        response.http_version = "HTTP/1.1"
        return True
    return False
