"""Heads of responses that are forwarded: they say the same of the body's length as those that fills read."""

from __future__ import annotations

import pytest

from proxy_cache.semantics.limits import HeadLimits
from proxy_cache.wire.head_checks import RefusedHead, cleaned_response

from . import ours


@pytest.mark.parametrize("char", [b"\x0b", b"\x0c", b"\x1c", b"\x1f", b"\x7f", b"\x01"])
@pytest.mark.parametrize("field", [b"Content-Length: %b0", b"content-length: 0%b", b"Transfer-Encoding:%bchunked"])
def test_a_control_character_is_no_white_space_around_a_length(field: bytes, char: bytes) -> None:
    """RFC 9110 §5.5. mitmproxy's reader treats some of them as white space, and would disagree with the sender about
    the end."""
    lines = [b"HTTP/1.1 200 OK", field % char]
    with pytest.raises(RefusedHead) as refused:
        cleaned_response(lines, HeadLimits())
    assert (refused.value.status, refused.value.error) == (502, "http_protocol_error")
    assert ours.response([b"\r\n".join([*lines, b"", b"0\r\n\r\n"])], eof=True).refused is not None
    assert cleaned_response([lines[0], b"A:" + char], HeadLimits())[1] == 0  # anywhere else they may stay
