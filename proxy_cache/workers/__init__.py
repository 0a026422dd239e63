"""Several processes that are one proxy (``proxy-cache run --workers N``): a fleet on one machine.

The parent (:mod:`.parent`) starts the workers, starts one again that has died, hands signals on, and answers on the
metrics port for all of them; requests of clients never pass through it. A worker is a mitmdump with the addon as ever,
whose :class:`~..app.App` is a :class:`~.app.WorkerApp`. All listen on the same port; each has a folder and a share of
the limits of its own, and the others are its peers.

Nothing of this is imported by a proxy that is one process.
"""
