"""The way of one GET: from the store, from a fill that runs, or from a new one. Knows no mitmproxy."""
