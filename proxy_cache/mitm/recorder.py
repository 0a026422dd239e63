"""What our layers report, and what they ask (:class:`.flow_requests.FlowRequests` answers)."""

from __future__ import annotations

from typing import Protocol

from mitmproxy import http
from mitmproxy.connection import Client, Connection
from mitmproxy.proxy import layer

from ..semantics.limits import HeadLimits
from .tunnel import TunnelRecorder


class Recorder(Protocol):
    """Our layers know nothing else of the proxy."""

    via: str
    tunnels: TunnelRecorder

    @property
    def head_limits(self) -> HeadLimits: ...

    @property
    def origin_timeout(self) -> float: ...

    def still_listens(self, client: Client) -> bool: ...

    def stream_gone(self, flow: http.HTTPFlow) -> None: ...

    def is_outdated(self, connection: Connection) -> bool: ...

    def refused(
        self, client: Client, status: int, error: str, detail: str, *, has_flow: bool = False
    ) -> http.Response: ...

    def host_is_the_clients(self, flow: http.HTTPFlow) -> bool: ...

    def upgrades_are_watched(self) -> bool: ...

    def failed(self, error: Exception) -> None: ...

    def forward_reason(self, flow: http.HTTPFlow) -> str: ...

    def unreachable(self, flow: http.HTTPFlow, message: str) -> http.Response: ...

    def layer_chosen(self, client: Client, layer: layer.Layer) -> None: ...

    def is_alone_with(self, flow: http.HTTPFlow) -> bool: ...

    def run_hook(self, name: str, flow: http.HTTPFlow) -> bool: ...

    async def answer_request(self, flow: http.HTTPFlow) -> None: ...
