"""The console command ``proxy-cache``: asks a proxy that runs, and is for the machines of clients.
It imports nothing of the proxy's, but for what ``check`` looks at before a start."""
