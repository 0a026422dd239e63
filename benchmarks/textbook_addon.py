"""The cache that a tutorial would write: the yardstick for ours, not a thing to use.

Everything is in memory and whole bodies are buffered; it knows no freshness, no coalescing and no limit.
"""

from mitmproxy import http


class TextbookCache:
    def __init__(self) -> None:
        self.responses: dict[str, tuple[int, bytes, http.Headers]] = {}

    def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.method == "GET" and (stored := self.responses.get(flow.request.pretty_url)):
            flow.response = http.Response.make(*stored)

    def response(self, flow: http.HTTPFlow) -> None:
        response = flow.response
        if flow.request.method == "GET" and response and response.status_code == 200 and response.content is not None:
            self.responses[flow.request.pretty_url] = (200, response.content, response.headers)


addons = [TextbookCache()]
