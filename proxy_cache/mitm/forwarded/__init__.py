"""Requests that go to their origin through mitmproxy's own layers, and the heads, bodies and ends of both sides."""
