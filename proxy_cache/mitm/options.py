"""Every option: name, type, default and help. Their values are checked in :mod:`.option_values`.

The options live in mitmproxy (``--set name=value`` or config.yaml) and may be changed while it runs, unless their
help says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader

from . import compat

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
        "cache_peers", Sequence[str], [],
        "The other nodes of the fleet, and this one: http://host:port, https://host:port, dns://name:port (all "
        "addresses of a name) or file:///path (Prometheus' file_sd format). Each key has one of them for its home, "
        "which fetches it for all. Empty: no peers.",
    ),
    (
        "cache_peer_mode", str, "home",
        "home: a miss asks the home of its key, one of the peers. sibling: a miss asks up to two peers whether they "
        "have it (only-if-cached), for fleets of mixed proxies. Read at start.",
    ),
    (
        "cache_peer_timeout", int, 2,
        "Seconds in which a peer has to answer, or to say that it is still at it (102). Then the next one is asked.",
    ),
    (
        "cache_peer_self", str, "",
        "Which of the peers this node is, as http://host:port. Empty: it is found by its addresses and ports.",
    ),
    (
        "cache_peer_token_file", str, "",
        "File with the fleet's secret, by which peers know each other. Without one peers are known by their addresses, "
        "which have to be private, and asked by http alone.",
    ),
    (
        "cache_peer_keep", str, "always",
        "Whether what a peer has sent is stored here, too: always, hot (when it is asked for again within ten "
        "minutes), never.",
    ),
    (
        "cache_shared", str, "",
        "An object store that many proxies share, asked on a miss before the origin: s3://bucket/prefix, "
        "gs://bucket/prefix, az://container/prefix or file:///folder; credentials as its own tools have them "
        "(environment, instance role). s3://bucket?endpoint=https://host:port for others that speak S3. Needs "
        "the package obstore (pip install '.[shared]'). Empty: none. Read at start.",
    ),
    (
        "cache_shared_write", str, "immutable",
        "What is written to it, behind: immutable (what never changes, by its fields, its URL or a rule of cache_ttl), "
        "all (whatever may be stored for everybody), or off.",
    ),
    (
        "access_destinations", Sequence[str], [],
        "Where clients may have the proxy go: 'allow PATTERN' or 'deny PATTERN', the first rule that matches counts. "
        "Patterns are hosts (*.example.com), addresses and networks (10.0.0.0/8, fd00::/8), or * for all, each with or "
        "without :PORT or :FROM-TO ([fd00::/8]:443). Besides, these are denied: loopback, link-local, unspecified and "
        "multicast addresses, those of clouds' metadata services and of this proxy's own listeners, unless a rule "
        "allows the address ('allow 127.0.0.0/8'); and ports below 1024 other than 80 and 443, unless a rule allows "
        "the port.",
    ),
    (
        "access_connect_ports", Sequence[str], ["443"],
        "Ports that clients may have tunnels to (CONNECT): 443, 8000-8999, or * for all. Empty: none.",
    ),
    (
        "access_clients", Sequence[str], [],
        "Addresses and networks of the clients that are served, as 10.0.0.0/8. Empty: all that mitmproxy's "
        "block_global and block_private let in.",
    ),
    (
        "intercept_hosts", Sequence[str], [],
        "Hosts whose TLS ends here, so that what is asked of them is cached: patterns as for cache_hosts. Their "
        "clients have to trust mitmproxy's CA (mitmproxy-ca-cert.pem in confdir). Empty: every CONNECT is a tunnel.",
    ),
    (
        "intercept_fallback", bool, True,
        "Tunnel for ten minutes what a client asks of a host of intercept_hosts after it has not trusted our "
        "certificate for it. false: its connections go on failing.",
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
        "trace_context_to_origins", str, "private",
        "Which origins see traceparent, tracestate and baggage of fills: private (at addresses of this machine, or of "
        "networks of one's own), all or none. What is only forwarded keeps them as the client has sent them.",
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
        "host:port for /metrics, /healthz, /readyz, /status and the API. Port 0 picks a free one; empty switches it "
        "off. "
        "Read at start.",
    ),
    (
        "admin_token_file", str, "",
        "File with the token that whoever changes something by the metrics port's API, or by PURGE, has to show "
        "(Authorization: Bearer TOKEN); several, one a line, while it is changed. Empty: nothing can be changed.",
    ),
    (
        "admin_hosts", Sequence[str], [],
        "Names by which the metrics port may be asked, besides addresses, localhost and this machine's own name: "
        "patterns as for cache_hosts. A request with another Host is refused (421).",
    ),
    (
        "fast_lane", bool, True,
        "Answer plain GETs without a mitmproxy flow, as long as no other addon and no option has to see flows.",
    ),
    ("access_log", bool, True, "Log one line per request, in place of mitmdump's own flow lines."),
    (
        "access_log_format", str, "line",
        "line (for people), json (an object a line) or squid (Squid's native format, for the tools that read it).",
    ),
    (
        "access_log_file", str, "",
        "File that these lines are appended to, in place of mitmproxy's log. SIGHUP opens it anew, for logrotate.",
    ),
    (
        "access_log_phases", bool, False,
        "Say in a miss's line, too, how long each of its steps took (lookup, peer, shared, queue, connect, first_byte, "
        "backoff, body). Not in Squid's format.",
    ),
    (
        "request_id", bool, False,
        "Give each request an X-Request-Id, the client's own if it has a good one: in the log, to the origin, and back "
        "to the client. Read at start.",
    ),
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
    {
        "mode", "upstream_auth", "client_certs", "ssl_insecure", "ssl_verify_upstream_trusted_ca",
        "ssl_verify_upstream_trusted_confdir",
    }
)  # fmt: skip
"""Options of mitmproxy that settings depend on."""


logger = logging.getLogger(__name__)

refused: set[str] = set()
"""Options whose values could not even be converted, at start."""


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
        kind_name = _KINDS.get(kind, typecheck.typespec_to_str(kind))
        raise exceptions.OptionsError(f"{name}: must be {kind_name}, not {str(value)[:80]!r}")
    if option.choices and value not in option.choices:
        raise exceptions.OptionsError(f"{name}: must be one of {', '.join(option.choices)}, not {str(value)[:80]!r}")
