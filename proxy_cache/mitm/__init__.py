"""mitmproxy: hooks in, answers out, and what is forwarded as it is. No other room imports mitmproxy."""
