"""The values of all options, checked, as :class:`settings.Settings`. A bad one names itself."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import exceptions
from mitmproxy.net import server_spec

from ..caching.fills.context import SpanSettings
from ..caching.limiter import Limits
from ..caching.serving import CacheSettings
from ..semantics import redaction
from ..semantics.limits import HeadLimits
from ..settings import AdminSettings, InterceptSettings, Settings
from ..store.store import Quota
from ..upstream.connection import INTERIM_TIMES
from ..upstream.origin import OriginSettings
from ..upstream.peers import listings
from ..upstream.peers.client import PeerSettings
from ..upstream.peers.peer import Peer, is_private
from ..upstream.peers.settings import FleetSettings
from ..upstream.shared.bucket import BadUrl, check_url
from ..upstream.shared.store import SharedSettings
from ..upstream.trace_context import RECIPIENTS
from ..upstream.trust import BadCertificate, Trust
from . import access_values, compat, log_values, rules
from .filters import host_of_flow
from .token_files import tokens

_BETWEEN = re.compile(r"[,\s]+")
_PARAMETER = re.compile(r"[\w-]+")
_HOST_PATTERN = re.compile(r"[\w.*?\[\]!:-]+")
_ADDRESS_PATTERN = re.compile(r"\[([0-9a-f.]*:[0-9a-f:.]*)\](?::([0-9]{1,9}))?")
_PORT_OF_PATTERN = re.compile(r":([0-9*?\[\]!-]+)$")
MAX_NUMBER = 2**31 - 1
"""Of seconds, and of whatever is counted: more is a slip of the keyboard."""
MAX_SIZE = 2**62
_SIZE = re.compile(r"(\d++(?:\.\d++)?+)\s*+(%|[kmgt](?:i?b)?|b)?", re.IGNORECASE)


def parse(options: Any) -> Settings:
    """Settings from mitmproxy's options. Raises ``OptionsError`` with one line that names the option and the reason."""
    for name in (
        "origin_max_in_flight",
        "origin_max_in_flight_per_host",
        "origin_queue_max",
        "origin_queue_max_per_client",
        "origin_queue_timeout",
        "quick_abort_timeout",
        "origin_retries",
        "cache_default_ttl",
        "shutdown_grace",
    ):
        if not 0 <= getattr(options, name) <= MAX_NUMBER:
            raise exceptions.OptionsError(
                f"{name}: must be from 0 to {MAX_NUMBER}, not {_short(getattr(options, name))}"
            )
    if not 1 <= options.origin_timeout <= MAX_NUMBER:
        raise exceptions.OptionsError(
            f"origin_timeout: must be 1 second or more, and {MAX_NUMBER} at the most, not "
            f"{_short(options.origin_timeout)}"
        )
    if not options.cache_dir.strip():
        raise exceptions.OptionsError("cache_dir: must name a folder")
    try:
        cache_dir = Path(options.cache_dir).expanduser()
    except RuntimeError as error:  # ~somebody
        raise exceptions.OptionsError(f"cache_dir: {options.cache_dir!r}: {error}") from error
    quota = Quota(
        _size("cache_max_size", options.cache_max_size),
        _size("cache_min_free", options.cache_min_free),
        _size(
            "cache_max_object_size", options.cache_max_object_size, "bytes, 500m, 20g or a share such as 10%",
            whole="whole cache",
        ),
    )  # fmt: skip
    for name, value in (("cache_max_size", quota.max_size), ("cache_max_object_size", quota.max_object)):
        if not value:
            raise exceptions.OptionsError(f"{name}: must be more than 0")
    return Settings(
        cache_dir=cache_dir,
        quota=quota,
        memory=_byte_size("cache_memory", options.cache_memory),
        verify_rate=_byte_size("cache_verify_rate", options.cache_verify_rate),
        cache_hosts=_host_patterns(options.cache_hosts),
        limits=Limits(
            options.origin_max_in_flight,
            options.origin_max_in_flight_per_host,
            options.origin_queue_max,
            options.origin_queue_timeout,
            options.origin_queue_max_per_client,
        ),
        head_limits=_head_limits(options),
        origin=_origin(options),
        fleet=_fleet(options),
        cache=CacheSettings(serve_stale_on_overload=options.origin_serve_stale_on_overload),
        rules=rules.parse(options),
        default_ttl=options.cache_default_ttl,
        spans=_spans(options),
        quick_abort_max=_byte_size("quick_abort_max", options.quick_abort_max),
        quick_abort_timeout=options.quick_abort_timeout,
        spill_max=_byte_size("spill_max", options.spill_max),
        metrics_listen=_address("metrics_listen", options.metrics_listen),
        access_log=options.access_log,
        log=log_values.access_log(options),
        request_id=options.request_id,
        redaction=_redaction(options.log_redact),
        fast_lane=options.fast_lane,
        half_closed_clients=options.half_closed_clients,
        shutdown_grace=options.shutdown_grace,
        shared=_shared(options),
        destinations=access_values.destinations(options),
        clients=access_values.clients(options),
        intercept=InterceptSettings(
            _host_patterns(options.intercept_hosts, "intercept_hosts"), options.intercept_fallback
        ),
        admin=AdminSettings(
            tokens("admin_token_file", options.admin_token_file), _host_patterns(options.admin_hosts, "admin_hosts")
        ),
    )


SHARED_WRITES = ("immutable", "all", "off")


def _shared(options: Any) -> SharedSettings | None:
    url, write = options.cache_shared.strip(), options.cache_shared_write.strip()
    if write not in SHARED_WRITES:
        raise exceptions.OptionsError(f"cache_shared_write: {_short(write)!r} is not {', '.join(SHARED_WRITES)}")
    if not url:
        return None
    try:
        check_url(url)
    except BadUrl as error:
        raise exceptions.OptionsError(f"cache_shared: {error}") from error
    return SharedSettings(url, write)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _size(
    name: str, text: str, examples: str = "bytes, 500m, 20g or a share such as 80%", whole: str = "whole disk"
) -> int | float:
    """Bytes as an ``int``, a share of the disk as a ``float`` from 0 to 1."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 40:
        raise exceptions.OptionsError(f"{name}: {_short(text)!r} is not a size; use {examples}")
    number, unit = float(match[1]), (match[2] or "").lower()
    if unit == "%":
        if number > 100:
            raise exceptions.OptionsError(f"{name}: {text!r} is more than the {whole}")
        return number / 100
    power = "kmgt".find(unit[0]) + 1 if unit and unit != "b" else 0
    size = int(number * 1024**power)
    if size > MAX_SIZE:
        raise exceptions.OptionsError(f"{name}: {text!r} is more than any disk has; use {examples}")
    return size


def _byte_size(name: str, text: str) -> int:
    size = _size(name, text, "bytes, 500k, 20m or 1g")
    if isinstance(size, float):
        raise exceptions.OptionsError(f"{name}: must be a size in bytes, 500k, 20m or 1g, not a share: {text!r}")
    return size


HEAD_SIZES = range(1024, 1024 * 1024 + 1)
"""Bytes that a head may be limited to. More than a megabyte would take longer than others should have to wait."""
HEAD_FIELDS = range(16, 10_001)


def _head_limits(options: Any) -> HeadLimits:
    sizes = []
    for name in ("head_max_size", "head_max_line"):
        size = _byte_size(name, getattr(options, name))
        if size not in HEAD_SIZES:
            raise exceptions.OptionsError(f"{name}: must be from 1k to 1m, not {getattr(options, name)!r}")
        sizes.append(size)
    total, line = sizes
    if options.head_max_fields not in HEAD_FIELDS:
        raise exceptions.OptionsError(f"head_max_fields: must be from 16 to 10000, not {options.head_max_fields}")
    return HeadLimits(total, options.head_max_fields, min(line, total))


def _spans(options: Any) -> SpanSettings:
    block = _byte_size("cache_block_size", options.cache_block_size)
    max_span = _byte_size("cache_max_span", options.cache_max_span)
    if max_span < max(block, 1):
        raise exceptions.OptionsError(f"cache_max_span: must be at least one block ({block}), not {max_span}")
    fill_whole = options.cache_fill_whole.strip()
    return SpanSettings(block, max_span, _byte_size("cache_fill_whole", fill_whole) if fill_whole else None)


def _address(name: str, text: str) -> tuple[str, int] | None:
    if not text.strip():
        return None
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise exceptions.OptionsError(f"{name}: {text!r} is not host:port")
    return host.strip("[]"), int(port)


def _host_patterns(values: Sequence[str], option: str = "cache_hosts") -> tuple[re.Pattern[str], ...]:
    return tuple(host_pattern(pattern, option) for value in values for pattern in _BETWEEN.split(value))


def host_pattern(pattern: str, option: str = "cache_hosts") -> re.Pattern[str]:
    """A pattern of ``cache_hosts``, or of another option, compiled. Raises ``OptionsError``."""
    if address := _ADDRESS_PATTERN.fullmatch(pattern.lower()):
        return _v6_host(option, pattern, *address.groups())
    port = _PORT_OF_PATTERN.search(pattern)
    name, tail = (pattern[: port.start()], port[0]) if port is not None else (pattern, "")
    if (
        not _HOST_PATTERN.fullmatch(pattern)
        or (port is not None and port[1].isdigit() and int(port[1]) > 65535)
        or ":" in name
    ):
        raise exceptions.OptionsError(
            f"{option}: {pattern!r} is not a host pattern such as packages.example or *.example.com:8000"
        )
    if name.startswith("."):
        raise exceptions.OptionsError(f"{option}: {pattern!r} matches no host; did you mean *{pattern}?")
    if name.endswith("."):
        raise exceptions.OptionsError(
            f"{option}: {pattern!r} matches only where clients write the last dot too; did you mean "
            f"{name.rstrip('.')}{tail}?"
        )
    # Names come in their ASCII form from clients, and from the command line (``--mode reverse:``) as it has them.
    spellings = dict.fromkeys((name.lower(), _in_ascii(option, pattern, name.lower()), host_of_flow(name.lower())))
    return re.compile("|".join(fnmatch.translate(spelling + tail) for spelling in spellings))


def _in_ascii(option: str, pattern: str, name: str) -> str:
    if name.isascii():
        return name
    try:
        return ".".join(label if label.isascii() else label.encode("idna").decode() for label in name.split("."))
    except UnicodeError as error:
        raise exceptions.OptionsError(f"{option}: {pattern!r} is no name of a host; write its xn-- form") from error


def _v6_host(option: str, pattern: str, address: str, port: str | None) -> re.Pattern[str]:
    """``[::1]:8000``, the address in its short form or as it is written here."""
    try:
        spellings = {address, ipaddress.IPv6Address(address).compressed}
    except ValueError as error:
        raise exceptions.OptionsError(f"{option}: {pattern!r} is no IPv6 address such as [::1]:8000") from error
    hosts = "|".join(map(re.escape, sorted(spellings)))
    if port is None:
        return re.compile(rf"(?:{hosts})\Z")
    if int(port) > 65535:
        raise exceptions.OptionsError(f"{option}: {pattern!r} has no port up to 65535")
    return re.compile(rf"\[(?:{hosts})\]:{int(port)}\Z")


def _redaction(values: Sequence[str]) -> redaction.Rules:
    names, patterns = [], []
    for value in values:
        if _PARAMETER.fullmatch(value):
            names.append(value)
            continue
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise exceptions.OptionsError(f"log_redact: {value!r} is no regular expression: {error}") from error
        if pattern.search(""):
            raise exceptions.OptionsError(f"log_redact: {value!r} matches where there is nothing to hide")
        patterns.append(pattern)
    return redaction.Rules(names, patterns)


def _trust(options: Any) -> Trust:
    file, folder = options.ssl_verify_upstream_trusted_ca, options.ssl_verify_upstream_trusted_confdir
    for name, trust in (
        ("ssl_verify_upstream_trusted_ca", Trust(added_file=file)),
        ("ssl_verify_upstream_trusted_confdir", Trust(added_folder=folder)),
        ("client_certs", Trust(client_certs=options.client_certs)),
    ):
        try:
            trust.check()
        except BadCertificate as error:
            raise exceptions.OptionsError(str(error)) from error
        except OSError as error:
            raise exceptions.OptionsError(f"{name}: {getattr(options, name)!r}: {error}") from error
    return Trust(not options.ssl_insecure, file, folder, options.client_certs)


def _origin(options: Any) -> OriginSettings:
    proxy = None
    for mode in options.mode:
        kind, _, rest = mode.partition(":")
        if kind == "upstream":
            scheme, (host, port) = server_spec.parse(rest.split("@")[0], "http")
            proxy = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            if urlsplit(proxy).scheme not in ("http", "https"):
                raise exceptions.OptionsError(f"mode: fills cannot go through an upstream proxy of scheme {scheme}")
    if options.trace_context_to_origins not in RECIPIENTS:
        given = _short(options.trace_context_to_origins)
        raise exceptions.OptionsError(
            f"trace_context_to_origins: must be one of {', '.join(RECIPIENTS)}, not {given!r}"
        )
    headers: tuple[tuple[str, str], ...] = ()
    if proxy and options.upstream_auth:
        if not compat.PARENT_AUTH.is_on:
            raise exceptions.OptionsError(f"upstream_auth: not for fills: {', '.join(compat.PARENT_AUTH.problems)}")
        parse_upstream_auth = compat.find("mitmproxy.addons.upstream_auth:parse_upstream_auth")
        headers = (("Proxy-Authorization", parse_upstream_auth(options.upstream_auth).decode()),)
    return OriginSettings(
        timeout=options.origin_timeout,
        min_pace=_byte_size("origin_min_pace", options.origin_min_pace),
        retries=options.origin_retries,
        proxy=proxy,
        proxy_headers=headers,
        trust=_trust(options),
        head_limits=_head_limits(options),
        trace_context_to=options.trace_context_to_origins,
    )


def _fleet(options: Any) -> FleetSettings:
    for name, values in (("cache_peer_mode", ("home", "sibling")), ("cache_peer_keep", ("always", "hot", "never"))):
        if getattr(options, name) not in values:
            raise exceptions.OptionsError(
                f"{name}: must be one of {', '.join(values)}, not {_short(getattr(options, name))!r}"
            )
    if not 1 <= options.cache_peer_timeout <= MAX_NUMBER:
        raise exceptions.OptionsError(
            f"cache_peer_timeout: must be 1 second or more, and {MAX_NUMBER} at the most, not "
            f"{_short(options.cache_peer_timeout)}"
        )
    # A home that does what it should has asked its peers, its queue and its origin by then, each try with its limits.
    tries = (options.origin_retries + 1) * (INTERIM_TIMES + 1) * options.origin_timeout
    longest = 15 + 3 * options.cache_peer_timeout + options.origin_queue_timeout + tries
    client = PeerSettings(
        options.cache_peer_timeout, options.origin_timeout,
        tokens("cache_peer_token_file", options.cache_peer_token_file), _trust(options),
        _head_limits(options), longest,
    )  # fmt: skip
    peers = tuple(peer for value in options.cache_peers for peer in _BETWEEN.split(value) if peer)
    own = options.cache_peer_self.strip()
    try:
        fixed = [listing for listing in listings.parse(peers) if isinstance(listing, Peer)]
    except ValueError as error:
        raise exceptions.OptionsError(f"cache_peers: {error}") from error
    try:
        if own:
            listings.parse_peer(own)
    except ValueError as error:
        raise exceptions.OptionsError(f"cache_peer_self: {error}") from error
    for peer in fixed if not client.tokens else ():
        if peer.scheme != "http" or (peer.is_address and not is_private(peer.host)):
            raise exceptions.OptionsError(
                f"cache_peers: {peer} needs cache_peer_token_file: without a secret there are only http:// peers on "
                "private addresses"
            )
    return FleetSettings(peers, own, options.cache_peer_mode, options.cache_peer_keep, client)
