"""Every option: name, type, default, help and check, parsed into one frozen :class:`Settings`.

The options live in mitmproxy (``--set name=value`` or config.yaml) and may be changed while it runs, unless their
help says otherwise.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.net import server_spec

from ..caching.cache import CacheSettings
from ..caching.fills.table import SpanSettings
from ..caching.limiter import Limits
from ..semantics import redaction
from ..semantics.limits import HeadLimits
from ..store.store import Quota
from ..upstream.origin import OriginSettings
from ..upstream.trust import Trust
from . import compat, rules
from .filters import host_of_flow
from .rules import Rules

OPTIONS: tuple[tuple[str, Any, Any, str], ...] = (
    ("cache_dir", str, "~/.cache/proxy-cache", "Folder for the disk cache. One process per folder. Read at start."),
    (
        "cache_max_size", str, "80%",
        "The most the cache may take: bytes, a size such as 20g (k, m, g, t: powers of 1024), or a share, such as 80%, "
        "of what the disk can give it: the free space, and what the cache itself takes.",
    ),
    (
        "cache_max_object_size", str, "10%",
        "The most that one response may take of the cache: bytes, a size such as 500m, or a share of cache_max_size. "
        "What is longer is served and not kept; of what is of unknown length no more than this is made room for.",
    ),
    (
        "cache_min_free", str, "5%",
        "Free disk space that the cache never eats into: bytes, a size such as 2g, or a share of what the disk can "
        "give (as for cache_max_size).",
    ),
    (
        "cache_memory", str, "256m",
        "The most memory for small bodies that are in use, as bytes or a size such as 1g. 0: none are kept there.",
    ),
    (
        "cache_verify_rate", str, "16m",
        "Bytes a second with which all that is stored is read and compared with its checksums, again and again while "
        "there are no requests, as a size such as 16m. 0: only what is used is checked.",
    ),
    (
        "cache_hosts", Sequence[str], [],
        "Hosts to cache, as shell patterns, with or without a port (packages.example, *.example.com:8000, [::1]). "
        "GETs for other hosts are forwarded uncached. Empty: all hosts.",
    ),
    (
        "cache_default_ttl", int, 120,
        "Seconds for which a 200 that has neither Cache-Control, Expires, Last-Modified nor ETag counts as fresh, if "
        "its URL has no query and the request no credentials. 0: such responses are not stored.",
    ),
    (
        "cache_ttl", Sequence[str], [],
        "Freshness in place of what the origin says: /filter/time, with a mitmproxy filter expression and a time such "
        "as 10m, 12h or 30d; the first rule that matches counts. '/~d packages.example/30d'. Error statuses only where "
        "the filter names them ('/~c 404/1m'). With /force at the end also against no-store, private and Set-Cookie.",
    ),
    (
        "cache_ignore_request_directives", str, "",
        "Filter expression: requests whose Cache-Control and Pragma decide nothing here (Maven sends no-cache, "
        "no-store on every request). '~d maven.example'.",
    ),
    (
        "cache_ignore_authorization", str, "",
        "Filter expression: requests whose Authorization (or other credentials) do not keep their responses from being "
        "stored and served to everybody. For public packages behind clients that always log in. "
        "'~d registry.example & ~u /-/'.",
    ),
    (
        "cache_credential_fields", Sequence[str], [],
        "Further request fields that say who is asking (Authorization, Cookie, X-Api-Key, PRIVATE-TOKEN and what looks "
        "like one of them are known): a response that gives no lifetime is not kept if the request has one.",
    ),
    (
        "cache_block_size", str, "1m",
        "A range that isn't stored is asked for in whole blocks of this size. 0: just the bytes that were asked for.",
    ),
    (
        "cache_max_span", str, "16m",
        "The most that is asked of the origin at once on behalf of a range; longer ones take several requests.",
    ),
    (
        "cache_fill_whole", str, "",
        "Objects known to be at most this long are fetched whole when a range of them is wanted, as bytes or a size "
        "such as 8m. Empty: four blocks. 0: never.",
    ),
    (
        "cache_key_ignore_query", Sequence[str], [],
        "Query parameters that only sign and are left out of the cache key: /filter/names, with shell patterns, as in "
        "'/~d objects.example/X-Amz-*'. Whoever knows the URL without them is then served what is stored.",
    ),
    (
        "cache_queue_timeout", Sequence[str], [],
        "How long requests may wait for a slot, in place of origin_queue_timeout: /filter/time, with a mitmproxy "
        "filter expression and a time such as 90, 2m or 1h; the first rule that matches counts. "
        "'/~d packages.example/2m'. Each of those who wait for the same fill has its own time. 0: a slot at once, or "
        "503.",
    ),
    (
        "cache_targeted_fields", Sequence[str], [],
        "Targeted fields (RFC 9213) that are obeyed in place of Cache-Control and Expires, the preferred one first, "
        "such as CDN-Cache-Control.",
    ),
    (
        "origin_max_in_flight", int, 0,
        "The most origin fills at once; further ones queue, fairly between clients. 0: no limit.",
    ),
    ("origin_max_in_flight_per_host", int, 0, "The most origin fills at once for one host and port. 0: no limit."),
    (
        "origin_queue_max", int, 1024,
        "The most fills that may wait for a slot; a request that finds the queue full is answered 503.",
    ),
    (
        "origin_queue_max_per_client", int, 0,
        "The most fills that one client may wait for. 0: no limit of its own. (When the queue is full, a client with "
        "few places takes the newest one of the client with the most, whatever this says.)",
    ),
    (
        "origin_queue_timeout", int, 10,
        "Seconds a request may wait for a slot before it is answered 503 (cache_queue_timeout says it by rule). pip "
        "gives up after 15 s without a byte.",
    ),
    (
        "origin_timeout", int, 30,
        "Seconds without a byte from the origin (connecting included) after which a try is given up; what is forwarded "
        "and not idempotent (POST) has no limit once it is sent.",
    ),
    (
        "origin_min_pace", str, "0",
        "Bytes a second, as a size such as 10k, that a response body has to come with, over any origin_timeout seconds "
        "in which this proxy reads it; else it counts as broken off. 0: any pace will do.",
    ),
    (
        "origin_retries", int, 3,
        "Further tries of a fill after 408, 429, 500, 502, 503, 504, a timeout, or a refused or broken connection.",
    ),
    (
        "origin_serve_stale_on_overload", bool, False,
        "Answer with a stale response, where none of its directives forbids that, rather than with 503 when a fill "
        "gets no slot in time.",
    ),
    (
        "quick_abort_max", str, "1m",
        "A running fill that nobody waits for any more is finished if at most this many bytes are left (or have come, "
        "when the length is unknown); else it is dropped.",
    ),
    (
        "quick_abort_timeout", int, 10,
        "Seconds within which that has to be done; 1 at the most if others queue for its slot, and none if nothing has "
        "come yet, or if the queue is full. 0: what nobody waits for is dropped.",
    ),
    (
        "spill_max", str, "1g",
        "The most that is set aside of responses that are not stored, in unnamed files in cache_dir, when their "
        "clients read slower than the origin sends and others wait for the slot. (no-store: in memory, 256m at the "
        "most.) 0: nothing.",
    ),
    (
        "head_max_size", str, "64k",
        "The most bytes of a request's or a response's head (first line and header fields), as bytes or a size such as "
        "64k; at most 1m. A longer request is answered 431, for a longer response the client gets 502.",
    ),
    (
        "head_max_line", str, "16k",
        "The most bytes of one line of such a head. A longer request line is answered 414.",
    ),
    ("head_max_fields", int, 256, "The most header fields of a request or a response."),
    (
        "half_closed_clients", bool, False,
        "Answer clients that close their sending side (a FIN) after their request, and take only a reset, or a write "
        "that fails, for leaving. Off: a FIN is leaving, which ends what is queued for the client at once.",
    ),
    (
        "metrics_listen", str, "127.0.0.1:8082",
        "host:port for /metrics, /healthz, /readyz and /status. Port 0 picks a free one; empty switches it off. "
        "Read at start.",
    ),
    (
        "fast_lane", bool, True,
        "Answer plain GETs without a mitmproxy flow, as long as no other addon and no option has to see flows.",
    ),
    ("access_log", bool, True, "Log one line per request, in place of mitmdump's own flow lines."),
    (
        "log_redact", Sequence[str], [],
        "What of URLs is shown as *** in logs, beside what looks like a secret: names of parameters (ticket), or "
        "regular expressions, of which all matches are hidden, or their groups if they have some (/build-(\\w+)/).",
    ),
    (
        "shutdown_grace", int, 10,
        "Seconds that running responses are given to finish when the proxy is asked to stop.",
    ),
    (
        "tune_event_loop", bool, True,
        "Use what asyncio keeps to itself, for shorter turns of the event loop, reads without detours and a fast lane "
        "from the first byte. false: the loop stays as Python has made it; a client that leaves while its "
        "connection is not being read is noticed later. Read at start.",
    ),
    (
        "dev_reload", bool, False,
        "For developers: start the proxy anew in the same process whenever its script is touched, as mitmproxy does "
        "with all scripts. Read at start.",
    ),
)  # fmt: skip

NAMES = frozenset(name for name, *_ in OPTIONS)
SIZES = frozenset(
    {
        "cache_max_size", "cache_max_object_size", "cache_min_free", "cache_memory", "cache_verify_rate",
        "cache_block_size", "cache_max_span", "cache_fill_whole", "origin_min_pace", "quick_abort_max", "spill_max",
        "head_max_size", "head_max_line",
    }
)  # fmt: skip
"""Options that are a number of bytes, in words."""
MITMPROXY_NAMES = frozenset(
    {"mode", "upstream_auth", "ssl_insecure", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"}
)
"""Options of mitmproxy that settings depend on."""


logger = logging.getLogger(__name__)

_BETWEEN = re.compile(r"[,\s]+")
_PARAMETER = re.compile(r"[\w-]+")
_HOST_PATTERN = re.compile(r"[\w.*?\[\]!:-]+")
_ADDRESS_PATTERN = re.compile(r"\[([0-9a-f.]*:[0-9a-f:.]*)\](?::([0-9]{1,9}))?")
_PORT_OF_PATTERN = re.compile(r":([0-9*?\[\]!-]+)$")
NUMBER_MAX = 2**31 - 1
"""Of seconds, and of whatever is counted: more is a slip of the keyboard."""
SIZE_MAX = 2**62
_SIZE = re.compile(r"(\d++(?:\.\d++)?+)\s*+(%|[kmgt](?:i?b)?|b)?", re.IGNORECASE)

refused: set[str] = set()
"""Options whose values could not even be converted, at start."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All options, checked and typed."""

    cache_dir: Path
    quota: Quota
    memory: int
    verify_rate: int
    cache_hosts: tuple[re.Pattern[str], ...]
    limits: Limits
    head_limits: HeadLimits
    origin: OriginSettings
    cache: CacheSettings
    rules: Rules
    default_ttl: int
    spans: SpanSettings
    quick_abort_max: int
    quick_abort_timeout: int
    spill_max: int
    metrics_listen: tuple[str, int] | None
    access_log: bool
    redaction: redaction.Rules
    fast_lane: bool
    half_closed_clients: bool
    shutdown_grace: int

    def caches(self, host: str, port: int) -> bool:
        """Whether GETs for this host go through the cache."""
        return not self.cache_hosts or is_one_of(self.cache_hosts, host, port)


def is_one_of(patterns: Iterable[re.Pattern[str]], host: str, port: int) -> bool:
    """Whether a host, with or without its port, matches one of these (:func:`host_pattern`)."""
    name = host.lower()
    with_port = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return any(pattern.match(name) or pattern.match(with_port) for pattern in patterns)


def load(loader: Loader) -> None:
    """Declare the options to mitmproxy."""
    for name, kind, default, text in OPTIONS:
        loader.add_option(name, kind, default, text)
    # Values given with --set, or in mitmproxy's config.yaml, are taken by mitmproxy once the script has loaded. One
    # that it can't take would end the loading in silence, and leave a proxy that runs without its cache.
    refused.clear()
    manager = loader.master.options
    if not compat.OPTIONS.is_on:
        return
    for name, value in list(manager.deferred.items()):
        if name not in NAMES:
            continue  # another script may have it: see option_names.unknown
        try:
            option = manager._options[name]
            if hasattr(value, "val"):  # the words of --set
                manager._parse_setval(option, value.val)
            else:
                manager.deferred[name] = value = number_as_size(name, value)
                check_type(option, value)
        except exceptions.OptionsError as error:
            del manager.deferred[name]
            message = str(error)
            logger.error("%s", message if name in message else f"{name}: {message}")
            refused.add(name)


def number_as_size(name: str, value: Any) -> Any:
    """A value of an option as YAML has it, where a plain number is no text: of a size it is as good as one."""
    return str(value) if name in SIZES and type(value) is int else value


_KINDS: dict[object, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    Sequence[str]: "a list of texts",
}


def check_type(option: Any, value: Any) -> None:
    """Whether a value from a file is of the option's type. Raises ``OptionsError``: one line that names it."""
    if not compat.OPTIONS.is_on:
        return
    typecheck, name, kind = compat.find("mitmproxy.utils:typecheck"), option.name, option.typespec
    try:
        typecheck.check_option_type(name, value, kind)
        fits = not (kind is int and isinstance(value, bool))
    except TypeError:
        fits = False
    if not fits:
        wanted = _KINDS.get(kind, typecheck.typespec_to_str(kind))
        raise exceptions.OptionsError(f"{name}: must be {wanted}, not {str(value)[:80]!r}")
    if option.choices and value not in option.choices:
        raise exceptions.OptionsError(f"{name}: must be one of {', '.join(option.choices)}, not {str(value)[:80]!r}")


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
        if not 0 <= getattr(options, name) <= NUMBER_MAX:
            raise exceptions.OptionsError(
                f"{name}: must be from 0 to {NUMBER_MAX}, not {_short(getattr(options, name))}"
            )
    if not 1 <= options.origin_timeout <= NUMBER_MAX:
        raise exceptions.OptionsError(
            f"origin_timeout: must be 1 second or more, and {NUMBER_MAX} at the most, not "
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
        cache_hosts=tuple(host_pattern(pattern) for value in options.cache_hosts for pattern in _BETWEEN.split(value)),
        limits=Limits(
            options.origin_max_in_flight,
            options.origin_max_in_flight_per_host,
            options.origin_queue_max,
            options.origin_queue_timeout,
            options.origin_queue_max_per_client,
        ),
        head_limits=_head_limits(options),
        origin=_origin(options),
        cache=CacheSettings(serve_stale_on_overload=options.origin_serve_stale_on_overload),
        rules=rules.parse(options),
        default_ttl=options.cache_default_ttl,
        spans=_spans(options),
        quick_abort_max=_byte_size("quick_abort_max", options.quick_abort_max),
        quick_abort_timeout=options.quick_abort_timeout,
        spill_max=_byte_size("spill_max", options.spill_max),
        metrics_listen=_address("metrics_listen", options.metrics_listen),
        access_log=options.access_log,
        redaction=_redaction(options.log_redact),
        fast_lane=options.fast_lane,
        half_closed_clients=options.half_closed_clients,
        shutdown_grace=options.shutdown_grace,
    )


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
    if size > SIZE_MAX:
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
    most = _byte_size("cache_max_span", options.cache_max_span)
    if most < max(block, 1):
        raise exceptions.OptionsError(f"cache_max_span: must be at least one block ({block}), not {most}")
    whole = options.cache_fill_whole.strip()
    return SpanSettings(block, most, _byte_size("cache_fill_whole", whole) if whole else None)


def _address(name: str, text: str) -> tuple[str, int] | None:
    if not text.strip():
        return None
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise exceptions.OptionsError(f"{name}: {text!r} is not host:port")
    return host.strip("[]"), int(port)


def host_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of ``cache_hosts``, compiled. Raises ``OptionsError``."""
    if address := _ADDRESS_PATTERN.fullmatch(pattern.lower()):
        return _v6_host(pattern, *address.groups())
    port = _PORT_OF_PATTERN.search(pattern)
    name, tail = (pattern[: port.start()], port[0]) if port is not None else (pattern, "")
    if (
        not _HOST_PATTERN.fullmatch(pattern)
        or (port is not None and port[1].isdigit() and int(port[1]) > 65535)
        or ":" in name
    ):
        raise exceptions.OptionsError(
            f"cache_hosts: {pattern!r} is not a host pattern such as packages.example or *.example.com:8000"
        )
    if name.startswith("."):
        raise exceptions.OptionsError(f"cache_hosts: {pattern!r} matches no host; did you mean *{pattern}?")
    if name.endswith("."):
        raise exceptions.OptionsError(
            f"cache_hosts: {pattern!r} matches only where clients write the last dot too; did you mean "
            f"{name.rstrip('.')}{tail}?"
        )
    # Names come in their ASCII form from clients, and from the command line (``--mode reverse:``) as it has them.
    spellings = dict.fromkeys((name.lower(), _in_ascii(pattern, name.lower()), host_of_flow(name.lower())))
    return re.compile("|".join(fnmatch.translate(spelling + tail) for spelling in spellings))


def _in_ascii(pattern: str, name: str) -> str:
    if name.isascii():
        return name
    try:
        return ".".join(label if label.isascii() else label.encode("idna").decode() for label in name.split("."))
    except UnicodeError as error:
        raise exceptions.OptionsError(f"cache_hosts: {pattern!r} is no name of a host; write its xn-- form") from error


def _v6_host(pattern: str, address: str, port: str | None) -> re.Pattern[str]:
    """``[::1]:8000``, the address in its short form or as it is written here."""
    try:
        spellings = {address, ipaddress.IPv6Address(address).compressed}
    except ValueError as error:
        raise exceptions.OptionsError(f"cache_hosts: {pattern!r} is no IPv6 address such as [::1]:8000") from error
    hosts = "|".join(map(re.escape, sorted(spellings)))
    if port is None:
        return re.compile(rf"(?:{hosts})\Z")
    if int(port) > 65535:
        raise exceptions.OptionsError(f"cache_hosts: {pattern!r} has no port up to 65535")
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
    ):
        try:
            trust.check()
        except OSError as error:
            raise exceptions.OptionsError(f"{name}: {getattr(options, name)!r}: {error}") from error
    return Trust(not options.ssl_insecure, file, folder)


def _origin(options: Any) -> OriginSettings:
    proxy = None
    for mode in options.mode:
        kind, _, rest = mode.partition(":")
        if kind == "upstream":
            scheme, (host, port) = server_spec.parse(rest.split("@")[0], "http")
            proxy = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            if urlsplit(proxy).scheme not in ("http", "https"):
                raise exceptions.OptionsError(f"mode: fills cannot go through an upstream proxy of scheme {scheme}")
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
    )
