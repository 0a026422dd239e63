"""A mitmproxy script for tests: makes one function of the product raise, as a bug in it would.

The environment variable ``BREAK`` names it: ``package.module:Class.method`` or ``package.module:function``. Only
calls that have ``break-me`` somewhere in their arguments raise.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os


def break_(where: str) -> None:
    module_name, _, path = where.partition(":")
    class_name, _, name = path.rpartition(".")
    module = importlib.import_module(module_name)
    owner = getattr(module, class_name) if class_name else module
    original = getattr(owner, name)

    def check(arguments: tuple[object, ...]) -> None:
        for argument in arguments:
            seen = [repr(argument), *(repr(getattr(argument, name, "")) for name in ("request", "target", "key"))]
            if any("break-me" in text for text in seen):
                raise RuntimeError("broken by the test")

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def broken(*arguments: object, **options: object) -> object:
            check(arguments)
            return await original(*arguments, **options)
    else:

        @functools.wraps(original)
        def broken(*arguments: object, **options: object) -> object:
            check(arguments)
            return original(*arguments, **options)

    setattr(owner, name, broken)


break_(os.environ["BREAK"])
