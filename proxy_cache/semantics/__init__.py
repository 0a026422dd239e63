"""HTTP caching as pure functions: RFC 9110 and RFC 9111, and what extends them.

No clock, no disk, no network in here: times and headers come in as arguments. Each decision quotes the section it
follows. What depends on the stored response alone is worked out once, when it is made; a hit does not parse.
"""
