"""Requests that are mitmproxy's flows: each goes through the one door, and is answered, forwarded or refused here.

Answers come from :mod:`caching.cache`, and reach the client by way of :mod:`.layers`. An exception in a hook would let
mitmproxy forward the request past the cache and its limiter, so every hook for a request catches everything and answers
502 itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.flow import Error

from ..app import App
from ..caching.answers import Answer, Exchange
from ..caching.cache import Cache
from ..caching.fills.head import ClientGone
from ..downstream.admission import Route
from ..downstream.body_sender import BodySender
from ..downstream.records import RequestRecord
from ..semantics import request_ids
from ..semantics.headers import Headers
from ..semantics.methods import is_safe
from ..semantics.signatures import without_parameters
from ..wire.head_checks import RefusedHead
from ..wire.responses import status_of
from . import compat, plain_flows
from .accept import Clients
from .account import begin_trace, end_flow, end_refused
from .flows import (
    KILLED,
    address,
    client_of,
    error_type,
    forward_reason,
    has_body,
    headers_for_origin,
    interim_sender,
    means_its_target,
    method_of,
    refusal,
    response_for,
    target_of,
)
from .max_forwards import final_answer, hops_left
from .metadata import FORWARD_REASON
from .observers import FlowObservers
from .purging import purge
from .streaming import buffer_body, may_stream, needs_buffering
from .trust import ForwardTrust
from .tunnels import Tunnels

logger = logging.getLogger(__name__)

LEFT_BEHIND = 60.0
"""Seconds after its client has gone, at which a request that nothing has ended is. Hooks may run on for a while."""


class FlowRequests:
    """Our hooks for flows, and all that our layers know of the proxy."""

    def __init__(
        self, app: App, observers: FlowObservers, clients: Clients, tunnels: Tunnels, forward_trust: ForwardTrust
    ) -> None:
        self.app, self.observers, self.clients, self.tunnels = app, observers, clients, tunnels
        self.forward_trust = forward_trust
        self._targets = clients.lanes.targets
        self._records: dict[str, RequestRecord] = {}
        """By the flows' ids."""
        self._by_client: dict[str, set[http.HTTPFlow]] = {}

    # -- the hooks, in the order in which they are called ---------------------------------------------------------

    def begin(self, flow: http.HTTPFlow) -> None:
        """The hook ``requestheaders``, see :mod:`.late_hooks`."""
        self._records[flow.id] = record = self.app.accounts.begin()
        self._by_client.setdefault(flow.client_conn.id, set()).add(flow)
        if self.app.heads.has_request_ids:
            headers = flow.request.headers
            headers[request_ids.FIELD] = record.request_id = request_ids.taken_or_made(
                headers.get_all(request_ids.FIELD)
            )
        if flow.error is not None and flow.error.msg != Error.KILLED_MESSAGE:
            record.status = 400  # mitmproxy finds that it is none
        if flow.response is not None or flow.error is not None:
            return
        try:
            if not compat.LAYERS.is_on:
                plain_flows.check_request(flow.request, self.app.head_limits)
            if hops_left(flow.request) == 0 or has_body(flow):
                route = self._admit(flow)
                if route is not None and has_body(flow) and may_stream(flow):
                    flow.request.stream = flow.request.stream or True  # it may be a script's function
                    if not compat.LAYERS.is_on:
                        plain_flows.clean_request(flow, self.app.via, has_body=True)
            if flow.response is not None:
                flow.request.stream = False
            elif flow.request.stream and has_body(flow):
                self._forwarded(flow, record)
        except RefusedHead as refused:
            flow.request.stream = False
            response = refusal(self.app.heads, refused.status, refused.error, refused.detail)
            response.headers["Connection"] = "close"
            self._made(flow, response, "error")
        except Exception as error:
            self._refuse(flow, error)

    async def answer_request(self, flow: http.HTTPFlow) -> None:
        """The hook ``request``, see :mod:`.late_hooks`."""
        if flow.request.stream and has_body(flow):
            return  # its origin has it: a response is the origin's, early, or one that comes too late to be sent
        if flow.response is not None or flow.error is not None:
            record = self._records.get(flow.id)
            if flow.response is not None and record is not None and flow.response is not record.made:
                record.served_from = "addon"
            return
        try:
            app = self.app
            if app.cache is None and app.started is not None and app.settings is not None:
                await app.started.wait()
            match self._admit(flow):
                case None:
                    return
                case Route.CACHE:
                    await self._answer(flow)
                    if await buffer_body(flow, app.heads, always=not compat.LAYERS.is_on):
                        record = self._records[flow.id]
                        record.sender = None
                        if flow.response is not record.made:  # its body has broken off
                            record.made, record.served_from = flow.response, "error"
                case Route.CACHED_HEAD:
                    await self._answer_head(flow)
                case Route.PURGE:
                    self._made(flow, await purge(flow, app), "own")
            if flow.response is None:
                if not compat.LAYERS.is_on:
                    plain_flows.clean_request(flow, self.app.via, has_body=has_body(flow))
                self._forwarded(flow, self._records.get(flow.id))
        except Exception as error:
            self._refuse(flow, error)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if flow.response is None:
            return
        record = self._records.get(flow.id)
        if record is not None and record.request_id:
            flow.response.headers[request_ids.FIELD] = record.request_id
        if isinstance(flow.response.stream, BodySender):
            return
        try:
            if flow.response.status_code == 101 or record is None:
                return
            if flow.request.stream:
                self._forwarded(flow, record)
            from_origin = record.served_from == "forwarded"
            if from_origin:
                if flow.response.raw_content is not None:
                    record.served_from = "addon"  # an origin's has not come yet
                    from_origin = False
                else:
                    self._pass_on(flow, record)
            self._learn(flow, record, from_origin=from_origin)
        except Exception as error:
            self.app.failed(error)

    def _pass_on(self, flow: http.HTTPFlow, record: RequestRecord) -> None:
        """An origin's response, on its way to the client."""
        assert flow.response is not None
        if not compat.LAYERS.is_on:  # there is no layer of ours that would make its head a clean one
            try:
                plain_flows.clean_response(flow, self.app.via, forward_reason(flow))
            except RefusedHead:
                flow.kill()  # too late for another response
                return
        if not needs_buffering(flow):
            record.is_passed_on, record.passed_on_at = True, time.monotonic()
            flow.response.stream = _counting(record)

    def _learn(self, flow: http.HTTPFlow, record: RequestRecord, *, from_origin: bool) -> None:
        """Update or drop stored responses after a HEAD, or an unsafe method."""
        cache, settings = self.app.cache, self.app.settings
        assert flow.response is not None
        if cache is None or settings is None or not means_its_target(flow):
            return
        if flow.request.method == "HEAD" and flow.response.status_code == 200 and from_origin:
            self._head_answered(flow, record, cache)
        elif not is_safe(method_of(flow)) and record.served_from != "own" and 200 <= flow.response.status_code < 400:
            target = target_of(flow)
            policy = settings.rules.policy_for(flow, method=b"GET")  # stored responses came with one
            key = without_parameters(target.key, policy.key_ignores)
            cache.invalidate(target, Headers(flow.response.headers.fields), key)

    def ended(self, flow: http.HTTPFlow, note: str = "") -> None:
        """The hooks ``response`` and ``error``. ``note``: of the latter."""
        record = self._records.pop(flow.id, None)
        flows = self._by_client.get(flow.client_conn.id)
        if flows is not None:
            flows.discard(flow)
            if not flows:
                del self._by_client[flow.client_conn.id]
        if record is not None:
            end_flow(self.app.accounts, flow, record, note, forward_reason(flow))

    # -- clients that leave ---------------------------------------------------------------------------------------

    def client_gone(self, client: Client) -> None:
        flows = self._by_client.get(client.id, ())
        for flow in list(flows):
            record = self._records.get(flow.id)
            if record is not None and record.exchange is not None:
                record.exchange.client_gone()
        if flows:
            asyncio.get_running_loop().call_later(LEFT_BEHIND, self._end_left_behind, client.id)

    def cut(self) -> None:
        """The proxy ends: so do all responses."""
        for record in list(self._records.values()):
            if record.exchange is not None:
                record.exchange.client_gone()

    def stream_gone(self, flow: http.HTTPFlow) -> None:
        """The client wants no answer any more. Over HTTP/2 (RST_STREAM) its connection goes on."""
        record = self._records.get(flow.id)
        if record is None:
            return
        if record.exchange is not None:
            record.exchange.client_gone()
        else:  # another addon still has the request
            record.cut = "client"

    def _end_left_behind(self, client_id: str) -> None:
        """mitmproxy ends a flow with one of two hooks, ``response`` or ``error``, unless something in it fails."""
        for flow in list(self._by_client.get(client_id, ())):
            self.ended(flow, "client disconnected")

    # -- flows that nobody else sees ------------------------------------------------------------------------------

    def is_alone_with(self, flow: http.HTTPFlow) -> bool:
        """Whether nobody else in mitmproxy does anything with this request: our hooks may be called directly."""
        try:
            return (
                not self.observers.has_observers()
                and self._route(flow) is Route.CACHE
                and self._targets.is_for_origin(target_of(flow))
                and flow.error is None
            )
        except Exception as error:  # the flow takes mitmproxy's way through our hooks, which answer for themselves
            self.app.failed(error)
            return False

    def run_hook(self, name: str, flow: http.HTTPFlow) -> bool:
        """Call our own hook for a flow that we are alone with. ``False`` if it has to wait."""
        match name:
            case "request":
                return self._request_now(flow)
            case "requestheaders":
                self.begin(flow)
            case "responseheaders":
                self.responseheaders(flow)
            case "response":
                self.ended(flow)
            case "error":
                self.ended(flow, flow.error.msg if flow.error else "error")
        return True

    def _request_now(self, flow: http.HTTPFlow) -> bool:
        """Answer a GET if that takes no waiting."""
        if flow.response is not None:
            return True
        try:
            if self._admit(flow) is None:
                return True
            assert self.app.cache is not None
            exchange = self._exchange(flow)
            answer = self.app.cache.get_now(exchange)
            if answer is not None:
                self.app.accounts.answered(answer, exchange)
                self._respond(flow, answer)
            return answer is not None
        except Exception as error:
            self._refuse(flow, error)
            return True

    # -- answering ------------------------------------------------------------------------------------------------

    def _route(self, flow: http.HTTPFlow) -> Route:
        request = flow.request
        return self.app.admission.route(
            request.method,
            target_of(flow),
            request.headers.get_all("via"),
            cacheable=means_its_target(flow),
            plain="upgrade" not in request.headers and not has_body(flow),
            hops=hops_left(request),
        )

    def _admit(self, flow: http.HTTPFlow) -> Route | None:
        """Where the request goes; ``None`` if it goes nowhere, and is answered here."""
        route = self._route(flow)
        if route is Route.NO_FURTHER:
            settings = self.app.settings
            secret = settings.rules.base.credentials if settings is not None else frozenset[str]()
            self._made(flow, final_answer(flow, self.app.via, secret), "own")
        elif route is Route.LOOP:
            self._respond(flow, self.app.heads.loop_detected())
        elif route is Route.DENIED:
            denial = self.app.admission.denial(target_of(flow))
            answer = self.app.heads.error(403, denial.error, "bypass", detail=denial.detail)
            if flow.request.method == "GET" and "cache-peer" in flow.request.headers:
                self.app.accounts.answered(answer, self._exchange(flow))  # so that the peer knows whose it is
            self._respond(flow, answer)
        elif route is Route.PURGE and has_body(flow):
            self._made(flow, refusal(self.app.heads, 400, "http_request_error", "a PURGE has no body"), "error")
        elif route is Route.UNAVAILABLE:
            self._made(flow, refusal(self.app.heads, 503, "proxy_internal_error", "not ready"), "error")
        return route if flow.response is None else None

    def _exchange(self, flow: http.HTTPFlow) -> Exchange:
        """The request for the cache; made once, and found again when the client leaves."""
        record = self._record(flow)
        if record.exchange is None:
            assert self.app.settings is not None
            policy = self.app.settings.rules.policy_for(flow)
            headers = headers_for_origin(flow, self.app.via)
            record.exchange = exchange = Exchange(target_of(flow), headers, client_of(flow), policy)
            if (proof := flow.request.headers.get("cache-peer")) is not None and flow.request.method == "GET":
                self.app.peer_requests.recognise(exchange, proof, address(flow.client_conn))
            record.exchange.gone = record.cut == "client"
            if self.app.accounts.tracer is not None:
                begin_trace(self.app.accounts, flow, record)
        return record.exchange

    async def _answer(self, flow: http.HTTPFlow) -> None:
        app = self.app
        assert app.cache is not None
        exchange = self._exchange(flow)
        exchange.on_interim = interim_sender(flow.client_conn, flow.request.http_version)
        try:
            answer = await app.cache.get(exchange)
        except ClientGone as gone:
            # Nobody reads this. It is there for other addons, and so that nothing lets the request through.
            self._respond(flow, app.heads.overloaded("canceled", 1))
            logger.debug("client of %s left, %s", exchange.target.shown, "queued" if gone.queued else "waiting")
            return
        app.accounts.answered(answer, exchange)
        self._respond(flow, answer)

    async def _answer_head(self, flow: http.HTTPFlow) -> None:
        app = self.app
        assert app.cache is not None
        exchange = self._exchange(flow)
        answer = await app.cache.head(exchange)
        if isinstance(answer, str):
            if not exchange.directives.only_if_cached:
                flow.metadata[FORWARD_REASON] = answer
                return
            answer = app.heads.error(504, "http_request_denied", answer, detail="only-if-cached")
        exchange.close()
        app.accounts.answered(answer)
        answer.body = b""
        self._respond(flow, answer)

    def _head_answered(self, flow: http.HTTPFlow, record: RequestRecord, cache: Cache) -> None:
        """A HEAD went to the origin: its answer updates the stored response, or throws it out."""
        if record.exchange is None or flow.response is None:
            return
        if record.exchange.target.key != target_of(flow).key:
            return  # another addon has sent it elsewhere
        asked = flow.request.timestamp_end or flow.request.timestamp_start
        cache.head_answered(record.exchange, Headers(flow.response.headers.fields), asked, time.time())

    def _respond(self, flow: http.HTTPFlow, answer: Answer) -> None:
        response = response_for(flow, answer, last=self.app.is_draining)
        record = self._made(flow, response, answer.served_from)
        if isinstance(response.stream, BodySender):
            record.sender = response.stream

    def _made(self, flow: http.HTTPFlow, response: http.Response, source: str) -> RequestRecord:
        """Answer with a response of our own."""
        flow.response = response
        record = self._record(flow)
        record.made, record.served_from = response, source
        return record

    def _record(self, flow: http.HTTPFlow) -> RequestRecord:
        record = self._records.get(flow.id)
        if record is None:
            record = self._records[flow.id] = self.app.accounts.begin()
        return record

    def _forwarded(self, flow: http.HTTPFlow, record: RequestRecord | None) -> None:
        """The request goes past the cache, now or when it is complete."""
        if record is None or not record.is_counted:
            self.app.forwarded(flow.request.method)
        if record is not None:
            record.is_counted = True

    def _refuse(self, flow: http.HTTPFlow, error: Exception) -> None:
        self.app.failed(error)
        flow.request.stream = False
        self._made(flow, refusal(self.app.heads, 502, "proxy_internal_error", type(error).__name__), "error")

    # -- what our layers ask --------------------------------------------------------------------------------------

    def unreachable(self, flow: http.HTTPFlow, message: str) -> http.Response:
        """The answer where mitmproxy's own connection to an origin failed, with mitmproxy's words for why."""
        error = error_type(message)
        detail = message.removeprefix(KILLED).removeprefix(f"{error}: ")
        response = refusal(self.app.heads, status_of(error), error, detail, forward_reason(flow))
        if (record := self._records.get(flow.id)) is not None:
            record.served_from, record.is_passed_on = "error", True
            if record.request_id:
                response.headers[request_ids.FIELD] = record.request_id
        return response

    def refused(self, client: Client, status: int, error: str, detail: str, *, has_flow: bool = False) -> http.Response:
        """The answer to a request that can't be read. ``has_flow``: one was made of its head, and will be accounted
        for."""
        response = refusal(self.app.heads, status, error, detail)
        if not has_flow:
            end_refused(self.app.accounts, client, response, detail)
        return response


def _counting(record: RequestRecord) -> Any:
    """Stream a forwarded body through, and count its bytes."""

    def through(data: bytes) -> bytes:
        record.size += len(data)
        return data

    return through
