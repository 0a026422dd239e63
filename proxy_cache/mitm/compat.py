"""Every private or undocumented name of mitmproxy (and of its dependencies) that we touch, by the part of the proxy
that needs it.

mitmproxy promises nothing for these. They are looked up once, while this file is imported: where one is gone or takes
other arguments, its part is off, one line in the log says so, and the proxy goes on by plain mitmproxy flows. The
limiter, the rules and the cache need none of them. What only instances can tell is found at the first use
(:meth:`Feature.guard <proxy_cache.runtime.privates.Feature.guard>`).

What isn't listed here is documented (:data:`DOCUMENTED`). A test compares the list with what the files of this folder
import (tests/unit/test_compat.py).
"""

from __future__ import annotations

import logging
from importlib import metadata
from typing import Any, Final

from mitmproxy import ctx, flowfilter
from mitmproxy.connection import Client, Connection

from ..runtime.privates import Feature, attributes, calls, find, names, overrides, report

__all__ = ["find"]

logger = logging.getLogger(__name__)

DOCUMENTED: Final = frozenset(
    {
        "mitmproxy", "mitmproxy.addonmanager", "mitmproxy.connection", "mitmproxy.exceptions", "mitmproxy.flow",
        "mitmproxy.http", "mitmproxy.net.server_spec", "mitmproxy.proxy.context", "mitmproxy.proxy.mode_specs",
        "mitmproxy.tls", "mitmproxy.tools.main",
    }
)  # fmt: skip
"""Modules that have a page in mitmproxy's reference, that all of its examples use, or that its commands are."""

_HTTP: Final = "mitmproxy.proxy.layers.http"
_EVENTS: Final = f"{_HTTP}._events"
_SERVER: Final = "mitmproxy.proxy.server"
_HAS_STATUS_CODES: Final = isinstance(find(f"{_EVENTS}:ResponseProtocolError.code"), int)
"""Whether protocol errors carry status codes, as in mitmproxy 11, and not members of an enum, as in 12."""
_ERROR_CODES: Final = (
    ""
    if _HAS_STATUS_CODES
    else "CANCEL CONNECT_FAILED GENERIC_SERVER_ERROR REQUEST_VALIDATION_FAILED RESPONSE_VALIDATION_FAILED"
)

_HANDLERS: Final = (
    *attributes("mitmproxy.addons.proxyserver:Proxyserver", "connections"),
    *attributes(f"{_SERVER}:ConnectionHandler", "transports client"),
    *attributes(f"{_SERVER}:ConnectionIO", "handler reader writer"),
)
_WATCHDOG: Final = (
    *attributes(f"{_SERVER}:ConnectionHandler", "timeout_watchdog"),
    *attributes(f"{_SERVER}:TimeoutWatchdog", "callback blocker"),
    *calls(f"{_SERVER}:TimeoutWatchdog", watch="self", disarm="self"),
)

LAYERS: Final = Feature(
    "answers as they come",
    "outside of the fast lane bodies are held in memory until they are complete, and mitmproxy's own layers forward",
    (
        *_HANDLERS,
        *_WATCHDOG,
        *calls(f"{_SERVER}:ConnectionHandler", server_event="self, event"),
        *calls("mitmproxy.addons.next_layer:NextLayer", next_layer="self, nextlayer"),
        *names("mitmproxy.proxy.layer:NextLayer", "__init__"),
        *attributes("mitmproxy.proxy.layer:Layer", "_paused _paused_event_queue _handle_event handle_event context"),
        *attributes("mitmproxy.proxy.context:Context", "layers"),
        *calls("mitmproxy.proxy.context:Context", fork="self"),
        *names("mitmproxy.proxy.commands", "Command StartHook"),
        *calls(
            "mitmproxy.proxy.commands",
            SendData="connection, data", CloseConnection="connection", CloseTcpConnection="connection, *, half_close",
            RequestWakeup="delay", OpenConnection="connection",
        ),
        *calls(
            "mitmproxy.proxy.events",
            Start="", HookCompleted="command", DataReceived="connection, data", ConnectionClosed="connection",
        ),
        *names("mitmproxy.proxy.events", "Event Wakeup OpenConnectionCompleted"),
        *names(_HTTP, "HttpStream HttpLayer HttpClient HTTPMode.upstream HTTPMode.transparent"),
        *calls(
            _HTTP,
            SendHttp="event, connection", GetHttpConnection="address, tls, via, transport_protocol",
            DropStream="stream_id",
        ),
        *attributes(f"{_HTTP}:RegisterHttpConnection", "connection err"),
        *calls(f"{_HTTP}:GetHttpConnection", connection_spec_matches="self, connection"),
        *calls(_EVENTS, RequestHeaders="stream_id, request, end_stream", RequestData="stream_id, data"),
        *calls(_EVENTS, RequestEndOfMessage="stream_id", RequestProtocolError="stream_id, message, code"),
        *calls(_EVENTS, ResponseHeaders="stream_id, response, end_stream", ResponseData="stream_id, data"),
        *calls(_EVENTS, ResponseEndOfMessage="stream_id", ResponseProtocolError="stream_id, message, code"),
        *names(_EVENTS, "HttpEvent RequestTrailers ResponseTrailers"),
        *names(f"{_EVENTS}:ErrorCode", _ERROR_CODES),
        *calls(f"{_HTTP}._hooks", HttpResponseHook="flow", HttpErrorHook="flow"),
        *names(f"{_HTTP}._hooks", "HttpRequestHeadersHook HttpRequestHook HttpResponseHeadersHook"),
        *overrides(f"{_HTTP}:HttpStream", __init__="context, stream_id", send_response="already_streamed"),
        *overrides(f"{_HTTP}:HttpStream", state_wait_for_request_headers="event", check_invalid="request"),
        *overrides(f"{_HTTP}:HttpStream", handle_protocol_error="event", check_killed="emit_error_hook"),
        *overrides(f"{_HTTP}:HttpStream", state_consume_request_body="event", state_done="_", flow_done=""),
        *overrides(f"{_HTTP}:HttpStream", make_server_connection="", passthrough="event"),
        *calls(f"{_HTTP}:HttpStream", state_stream_request_body="self, event", state_errored="self, _"),
        *calls(f"{_HTTP}:HttpStream", state_wait_for_response_headers="self, event"),
        *calls(f"{_HTTP}:HttpStream", state_stream_response_body="self, event"),
        *attributes(f"{_HTTP}:HttpStream", "client_state server_state child_layer flow stream_id mode"),
        *overrides(f"{_HTTP}:HttpLayer", __init__="context, mode", _handle_event="event", make_stream="stream_id"),
        *overrides(f"{_HTTP}:HttpLayer", register_connection="command", get_connection="event, *, reuse"),
        *overrides(f"{_HTTP}:HttpLayer", event_to_child="child, event"),
        *attributes(f"{_HTTP}:HttpLayer", "connections streams command_sources mode"),
        *calls(f"{_HTTP}._base", ReceiveHttp="event"),
        *calls(f"{_HTTP}._http1", make_body_reader="expected_size"),
        *overrides(f"{_HTTP}._http1:Http1Server", __init__="context", read_headers="event", read_body="event"),
        *overrides(f"{_HTTP}._http1:Http1Server", send="event", wait="event", mark_done="*, request, response"),
        *calls(f"{_HTTP}._http1:Http1Server", passthrough="self, event", done="self, event"),
        *overrides(f"{_HTTP}._http1:Http1Client", __init__="context", read_headers="event", read_body="event"),
        *overrides(f"{_HTTP}._http1:Http1Client", send="event", mark_done="*, request, response"),
        *attributes(f"{_HTTP}._http1:Http1Server", "state buf body_reader request response request_done stream_id"),
        *attributes(f"{_HTTP}._http1:Http1Client", "state buf body_reader request response response_done stream_id"),
        *calls(f"{_HTTP}._http2", Http2Server="context"),
        *names(f"{_HTTP}._http2", "Http2Client"),
        *calls(
            "mitmproxy.net.http.http1",
            assemble_response="response", assemble_response_head="response", read_response_head="lines",
            expected_http_body_size="request, response", connection_close="http_version, headers",
        ),
        *names("h11._readers", "Http10Reader"),
        *calls("h11._receivebuffer:ReceiveBuffer", maybe_extract_lines="self", maybe_extract_at_most="self, count"),
        *attributes("h11._receivebuffer:ReceiveBuffer", "_data"),
        *calls("mitmproxy.proxy.layers.tcp", TCPLayer="context, *, ignore"),
        *calls("mitmproxy.proxy.layers.tcp:TCPLayer", relay_messages="self, event", done="self, _"),
    ),
)  # fmt: skip
"""Our HTTP layers (``layers.py``, ``forwarded/``)."""

TUNNELS: Final = Feature(
    "tunnels dialled first",
    "CONNECT is answered with 200 before its target was reached, and bytes of tunnels are not counted",
    (
        *calls("mitmproxy.proxy.tunnel", LayerStack=""),
        *calls("mitmproxy.proxy.tunnel:LayerStack", __truediv__="self, other", __getitem__="self, item"),
        *calls(f"{_HTTP}._upstream_proxy:HttpUpstreamProxy", make="ctx, send_connect"),
        *calls(f"{_HTTP}._hooks", HttpConnectedHook="flow", HttpConnectErrorHook="flow"),
        *overrides(f"{_HTTP}:HttpStream", handle_connect_regular="", handle_connect_upstream=""),
        *calls(f"{_HTTP}:HttpStream", handle_connect_finish="self"),
    ),
)
LANE: Final = Feature(
    "fast lane",
    "every request takes a flow of mitmproxy's",
    (*_HANDLERS, *_WATCHDOG, *attributes("asyncio:StreamReader", "_buffer")),
)
ACCEPT: Final = Feature(
    "lane from the first byte",
    "mitmproxy hears of every client first, and bursts of connections take longer",
    (
        *attributes("mitmproxy.addons.proxyserver:Proxyserver", "servers"),
        *attributes("mitmproxy.proxy.mode_servers:AsyncioServerInstance", "_servers"),
        *attributes("mitmproxy.proxy.mode_servers:ServerInstance", "mode"),
    ),
)
BACKPRESSURE: Final = Feature(
    "backpressure",
    "clients may send ahead any amount, and half_closed_clients counts in the fast lane alone",
    (*_HANDLERS,),
)
TLS_CLOSE: Final = Feature(
    "closing alerts",
    "the ends of TLS connections are not told apart: a forwarded body without a length may be cut short unseen",
    (
        *attributes("mitmproxy.proxy.layers.tls:ServerTLSLayer", "tls"),
        *attributes("mitmproxy.proxy.layers.tls:TLSLayer", "tls"),
        *attributes("mitmproxy.proxy.tunnel:TunnelLayer", "conn tunnel_connection"),
        *names("OpenSSL.SSL", "WantReadError ZeroReturnError Error"),
        *calls("OpenSSL.SSL:Connection", shutdown="self", get_shutdown="self"),
    ),
)
TIMERS: Final = Feature(
    "origin_timeout of what is forwarded",
    "a forwarded request waits for its origin as long as its client stays",
    (*_HANDLERS, *attributes("asyncio:StreamReader", "_buffer")),
)
HEARING: Final = Feature(
    "early answers of origins",
    "an answer that an origin gives before it resets the connection may be lost (502)",
    (*_HANDLERS, *attributes("asyncio:StreamReader", "_transport"), *names("asyncio:StreamReader", "set_exception")),
)
HTTP2_LIMITS: Final = Feature(
    "head limits within HTTP/2",
    "head_max_size is looked at once a head is complete",
    (
        *attributes(f"{_HTTP}._http2:Http2Connection", "h2_conn"),
        *calls(f"{_HTTP}._http2:Http2Connection", protocol_error="self, message, error_code"),
        *attributes("h2.connection:H2Connection", "decoder"),
        *attributes("hpack:Decoder", "max_header_list_size"),
    ),
)
TRUST: Final = Feature(
    "certificates of the system",
    "connections of forwarded requests are verified by mitmproxy's own certificates, and SIGHUP does not renew them",
    (
        *calls("mitmproxy.addons.tlsconfig:TlsConfig", tls_start_server="self, tls_start"),
        *names("mitmproxy.net.tls:create_proxy_server_context", "cache_clear"),
        *attributes("OpenSSL.SSL:Context", "_context"),
        *attributes("OpenSSL.crypto:X509Store", "_store"),
        *calls("OpenSSL.SSL:Connection", get_context="self"),
        *calls("OpenSSL.crypto:X509Store", load_locations="self, cafile, capath", set_flags="self, flags"),
        *names("OpenSSL.crypto", "Error X509StoreFlags.PARTIAL_CHAIN"),
        *names("OpenSSL.SSL:_lib", "X509_STORE_up_ref SSL_CTX_set_cert_store"),
    ),
)
INTERCEPT: Final = Feature(
    "interception of hosts",
    "hosts of intercept_hosts are tunnelled",
    (
        *calls("mitmproxy.proxy.mode_servers:ServerInstance", make="mode, manager"),
        *calls("mitmproxy.proxy.mode_servers:ServerInstance", handle_stream="self, reader, writer"),
        *calls("mitmproxy.proxy.mode_servers:ServerInstance", make_top_layer="self, context"),
        *calls("mitmproxy.net.server_spec", parse="server_spec, default_scheme"),
        *names("mitmproxy.net.server_spec:parse", "cache_info cache_clear"),
        *attributes("mitmproxy.addons.tlsconfig:TlsConfig", "certstore"),
        *attributes("mitmproxy.certs:CertStore", "default_ca default_privatekey default_chain_certs certs"),
        *calls("mitmproxy.certs:CertStore", asterisk_forms="dn"),
        *attributes("mitmproxy.certs:CertStoreEntry", "cert privatekey chain_certs"),
        *calls("mitmproxy.certs:Cert", to_pem="self"),
    ),
)
"""``intercept.py`` and ``leaves.py``."""
OPTIONS: Final = Feature(
    "checks of values at the start",
    "a value that is not of its option's type is told in mitmproxy's words, if at all",
    (
        *attributes("mitmproxy.optmanager:OptManager", "deferred _options"),
        *calls("mitmproxy.optmanager:OptManager", _parse_setval="self, o, values"),
        *attributes("mitmproxy.optmanager:_Option", "name typespec choices"),
        *calls(
            "mitmproxy.utils.typecheck", check_option_type="name, value, typeinfo", typespec_to_str="typespec"
        ),
    ),
)  # fmt: skip
RELOAD: Final = Feature(
    "SIGHUP for config.yaml",
    "changes in config.yaml take a restart, and at the start the file wins over --set",
    (
        *OPTIONS.needs,
        *calls("mitmproxy.optmanager", parse="text"),
        *calls("mitmproxy.optmanager:OptManager", set="self, *, defer", has_changed="self, option"),
        *calls("mitmproxy.optmanager:OptManager", default="self, option"),
        *calls("mitmproxy.tools.cmdline", mitmdump="opts"),
    ),
)
SCRIPTS: Final = Feature(
    "files left alone",
    "a script file that is touched starts the proxy anew",
    (
        *calls("mitmproxy.addonmanager", traverse="chain"),
        *attributes("mitmproxy.addons.script:ScriptLoader", "addons"),
        *attributes("mitmproxy.addons.script:Script", "reloadtask"),
    ),
)
NEIGHBOURS: Final = Feature(
    "a look at other addons",
    "there may be some that have to see every flow, so all requests take flows",
    (
        *calls("mitmproxy.addonmanager", traverse="chain"),
        *attributes("mitmproxy.addonmanager:AddonManager", "chain"),
        *names("mitmproxy.addons.block", "Block"),
    ),
)
BODY_RULES: Final = Feature(
    "a look at map_remote and modify_body",
    "where one of these is set all bodies are held until they are complete",
    (
        *attributes("mitmproxy.addons.mapremote:MapRemote", "replacements"),
        *attributes("mitmproxy.addons.modifybody:ModifyBody", "replacements"),
        *calls("mitmproxy.utils.human", parse_size="s"),
    ),
)
LISTENING: Final = Feature(
    "the listeners",
    "the proxy takes new requests while it stops, and a reloaded script may find its port changed",
    (
        *attributes("mitmproxy.addons.proxyserver:Proxyserver", "servers"),
        *calls("mitmproxy.addons.proxyserver:Proxyserver", setup_servers="self"),
        *calls("mitmproxy.addons.proxyserver:Servers", update="self, modes", __len__="self", __iter__="self"),
        *attributes("mitmproxy.proxy.mode_servers:ServerInstance", "mode listen_addrs"),
    ),
)
CLOSING: Final = Feature("the last connections", "mitmproxy ends them, and may complain", _HANDLERS)
CONFDIR: Final = Feature(
    "a look at confdir",
    "a confdir that can't be used is told by a traceback of mitmproxy's",
    (
        *calls("mitmproxy.certs:CertStore", from_store="path, basename, key_size, passphrase"),
        *names("mitmproxy.options", "CONF_BASENAME"),
    ),
)
FILTERS: Final = Feature(
    "rules decided by the URL alone",
    "each request takes a flow for its rules, rules of cache_ttl with a status (~c) do not count, and rules that can "
    "never apply are not found out",
    (
        *calls("mitmproxy.net.http.url", parse_authority="authority, *, check", default_port="scheme"),
        *calls("mitmproxy.net.http.url", unparse="scheme, host, port, path"),
        *names(
            "mitmproxy.flowfilter",
            "FAll FHTTP FTCP FUDP FDNS FHeadResponse FContentTypeResponse FAsset FBodResponse FHead FHeadRequest "
            "FContentType FContentTypeRequest FBod FBodRequest FBodResponse FDomain FUrl FMethod FCode FReq FResp FErr "
            "FWebSocket _Rex",
        ),
        *attributes("mitmproxy.flowfilter:FDomain", "re expr code help"),
        *attributes("mitmproxy.flowfilter:FUrl", "re expr"),
        *attributes("mitmproxy.flowfilter:FMethod", "re expr"),
        *attributes("mitmproxy.flowfilter:_Rex", "re expr code help"),
        *attributes("mitmproxy.flowfilter:FCode", "num"),
        *attributes("mitmproxy.flowfilter:FAnd", "lst"),
        *attributes("mitmproxy.flowfilter:FOr", "lst"),
        *attributes("mitmproxy.flowfilter:FNot", "itm"),
    ),
)
PARENT_AUTH: Final = Feature(
    "upstream_auth for fills",
    "a proxy with this option does not start: fills would be without it",
    calls("mitmproxy.addons.upstream_auth", parse_upstream_auth="auth"),
)

PROXY_USERS: Final = Feature(
    "proxyauth in the fast lane",
    "with this option every request takes a flow of mitmproxy's, clients are told apart by their addresses, and each "
    "check of a password holds up everybody",
    (
        *attributes("mitmproxy.addons.proxyauth:ProxyAuth", "authenticated validator"),
        *calls("mitmproxy.addons.proxyauth:ProxyAuth", requestheaders="self, f", http_connect="self, f"),
        *calls("mitmproxy.addons.proxyauth:ProxyAuth", configure="self, updated"),
        *calls("mitmproxy.addons.proxyauth", parse_http_basic_auth="s", Htpasswd="proxyauth"),
        *calls("mitmproxy.addons.proxyauth:Validator", __call__="self, username, password"),
        *names("mitmproxy.addons.proxyauth", "Ldap"),
    ),
)

FEATURES: Final = (
    LAYERS, TUNNELS, LANE, ACCEPT, BACKPRESSURE, TLS_CLOSE, TIMERS, HEARING, HTTP2_LIMITS, TRUST, INTERCEPT, OPTIONS,
    RELOAD, SCRIPTS, NEIGHBOURS, BODY_RULES, LISTENING, CLOSING, CONFDIR, FILTERS, PARENT_AUTH, PROXY_USERS,
)  # fmt: skip
_WITHIN_LAYERS: Final = (TUNNELS, TLS_CLOSE, TIMERS, HEARING, HTTP2_LIMITS)
"""Parts of our layers, which are not there without them."""


def owner() -> str:
    """``mitmproxy 12.3.1``."""
    try:
        return f"mitmproxy {metadata.version('mitmproxy')}"
    except metadata.PackageNotFoundError:
        return "mitmproxy"


def check() -> None:
    """Look all names up."""
    version = owner()
    for part in FEATURES:
        part.check(version)
    _settle()


def check_addons(addons: Any) -> None:
    """The same for mitmproxy's addons, which are asked for by name. ``addons``: mitmproxy's manager."""
    for name, needs, parts in (
        ("proxyserver", "connections", (LAYERS, LANE, BACKPRESSURE, TIMERS, HEARING, CLOSING)),
        ("proxyserver", "servers", (ACCEPT, LISTENING)),
        ("nextlayer", "next_layer", (LAYERS,)),
        ("tlsconfig", "tls_start_server", (TRUST,)),
        ("scriptloader", "addons", (SCRIPTS,)),
    ):
        addon = addons.get(name)
        if addon is None or not hasattr(addon, needs):
            for part in parts:
                if part.is_on:
                    part.lose(f"the addon {name} (gone)" if addon is None else f"{name}.{needs} (gone)")
    _settle()


def _settle() -> None:
    if not LAYERS.is_on:
        for part in _WITHIN_LAYERS:
            part.is_on = False
    if not (LAYERS.is_on and TUNNELS.is_on and LANE.is_on):
        INTERCEPT.is_on = False
    if not NEIGHBOURS.is_on and LANE.is_on:
        LANE.is_on = False  # nobody could say whether others have to see what goes through it


def tell() -> None:
    """One line in the log for each change that has switched something off, once."""
    report(FEATURES, logger)


# -- mitmproxy's connections ----------------------------------------------------------------------------------------


def handler_of(client: Client) -> Any:
    """mitmproxy's handler of a client: its connections, and the watchdog over them. ``None`` if it is gone."""
    return ctx.master.addons.get("proxyserver").connections.get(client.id)


def io_of(client: Client | Connection, connection: Connection) -> Any:
    """Task, reader and writer of one of a client's connections. ``None`` if it is gone."""
    handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
    return handler.transports.get(connection) if handler is not None else None


def client_writer(client: Client) -> Any:
    """The writer of a client's socket, if it is still connected."""
    handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
    io = handler.transports.get(client) if handler is not None else None
    return io.writer if io is not None else None


# -- why a message ends early ---------------------------------------------------------------------------------------


def _error_code(name: str, status_code: int) -> Any:
    return status_code if _HAS_STATUS_CODES else find(f"{_EVENTS}:ErrorCode.{name}")


BAD_REQUEST: Final = _error_code("REQUEST_VALIDATION_FAILED", 400)
BAD_RESPONSE: Final = _error_code("RESPONSE_VALIDATION_FAILED", 502)
BROKEN_OFF: Final = _error_code("GENERIC_SERVER_ERROR", 502)
"""The origin's side has failed: no further answer, and the connection closes."""
CANCELLED: Final = _error_code("CANCEL", 499)
"""Nobody waits for the rest."""
UNREACHABLE: Final = _error_code("CONNECT_FAILED", 502)

# -- filters --------------------------------------------------------------------------------------------------------


class _Nodes:
    """The kinds of parts that a filter expression has. One that mitmproxy doesn't know is in no expression."""

    def __getattr__(self, name: str) -> Any:
        kind = getattr(flowfilter, name, None) or type(name, (), {})
        setattr(self, name, kind)
        return kind


NODES: Any = _Nodes()

check()
