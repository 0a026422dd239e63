"""The process: turns of the event loop, batches of callbacks, Python's collector, SIGHUP."""
