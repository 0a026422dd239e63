"""The shared store: responses in an object store, which many proxies read on a miss and write behind.

- :mod:`.layout`: the names and the format of the objects;
- :mod:`.bucket`: the object store itself, by ``obstore``, which is imported when it is opened and not before;
- :mod:`.source`: the place in the chain of a fill, between peers and the origin;
- :mod:`.body`: a body on its way from the store, verified block by block before a byte of it goes on;
- :mod:`.choice` and :mod:`.writer`: which responses are written, and how;
- :mod:`.breaker`: a store in trouble is left alone for a while.
"""
