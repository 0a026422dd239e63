"""A mitmproxy script for tests, loaded before the product: mitmproxy, or Python, as another version might be.

The environment variable ``CHANGED`` has names, with a space between them. ``package.module:Class.name`` is gone then,
``package.module:Class.name()`` takes another argument, ``addon:name`` is an addon of another name. What mitmproxy could
not work without is only said to be gone: ``?package.module:Class.name``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from mitmproxy import ctx

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))


def change(where: str) -> None:
    module_name, _, path = where.partition(":")
    if module_name == "addon":
        known: Any = ctx.master.addons.lookup
        known[f"other-{path}"] = known.pop(path)
        return
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.removesuffix("()").split(".")
    for each in outer:
        owner = getattr(owner, each)
    if not path.endswith("()"):
        delattr(owner, name)
        return
    original = getattr(owner, name)
    signature = inspect.signature(original)
    more = inspect.Parameter("another", inspect.Parameter.KEYWORD_ONLY)
    other = signature.replace(parameters=[*signature.parameters.values(), more])
    if inspect.isclass(original):
        original.__signature__ = other  # type: ignore[attr-defined]
        return

    def changed(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options)

    changed.__signature__ = other  # type: ignore[attr-defined]
    bound = isinstance(inspect.getattr_static(owner, name), (classmethod, staticmethod))
    setattr(owner, name, staticmethod(changed) if bound else changed)


def say_gone(where: str) -> None:
    from proxy_cache.runtime import privates

    found = privates.Name.problem

    def problem(name: privates.Name) -> str | None:
        return f"{name.where} (gone)" if name.where == where else found(name)

    setattr(privates.Name, "problem", problem)  # noqa: B010


for each in os.environ["CHANGED"].split():
    if each.startswith("?"):
        say_gone(each[1:])
    else:
        change(each)
