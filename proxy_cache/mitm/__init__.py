"""mitmproxy: its hooks, options and layers, and requests that it forwards. No other room imports mitmproxy."""
