"""Limits of heads over HTTP/2, which h2 reads."""

from __future__ import annotations

import logging
from typing import Any

from ...semantics.limits import HeadLimits
from ...wire.head_checks import without_quotes
from ..compat import HTTP2_LIMITS

logger = logging.getLogger(__name__)


def limit_http2(connection: Any, limits: HeadLimits) -> None:
    """Fields of more than this in all end the connection (RFC 9113 §10.5.1); h2 bounds the frames that they come in.
    And what h2 finds wrong is told without the field's value, which it quotes: it may be a credential."""

    def limit() -> None:
        connection.h2_conn.decoder.max_header_list_size = limits.total
        end = connection.protocol_error
        connection.protocol_error = lambda message, *code: end(without_quotes(message), *code)

    HTTP2_LIMITS.guard(logger, limit)
