"""The console command ``proxy-cache``: for the machines of clients. It imports nothing of the proxy's."""
