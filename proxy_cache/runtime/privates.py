"""Checks of private names in libraries that features of the proxy depend on.

A private or undocumented name may be gone, or have another signature, in any release. So each feature lists the names
it needs and how it uses them, and they are checked before it is used: if one has changed, the feature is off, and the
proxy runs without it. (The lists: ``mitm/compat.py`` for mitmproxy, ``loop.py`` for asyncio.)
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Name:
    """One name, as ``package.module:Class.method``."""

    where: str
    parameters: str | None = None
    """Parameters that we pass: by position, after ``*`` by keyword. ``None``: it isn't called."""
    is_overridden: bool = False
    """Whether we replace this method: then its signature has to be exactly the same, since others call ours."""
    is_attribute: bool = False
    """Whether it is an attribute of instances."""

    def problem(self) -> str | None:
        """The change in words; ``None`` if there is none."""
        module_name, _, path = self.where.partition(":")
        short = f"{module_name.rpartition('.')[2]}.{path}"
        try:
            found: Any = importlib.import_module(module_name)
        except ImportError as error:
            return f"{module_name} (not importable: {error})"
        owner_path, _, last = path.rpartition(".")
        try:
            for each in owner_path.split(".") if owner_path else ():
                found = getattr(found, each)
            if self.is_attribute:
                return None if _gives(found, last) else f"{short} (gone)"
            found = getattr(found, last)
        except AttributeError:
            return f"{short} (gone)"
        if self.parameters is None:
            return None
        if not callable(found):
            return f"{short} (no longer callable)"
        try:
            signature = inspect.signature(found)
        except (TypeError, ValueError):
            return None  # a C function without a signature
        fits = _is_same if self.is_overridden else _takes
        return None if fits(signature, self.parameters) else f"{short} (takes {_shown(signature)} now)"


def find(where: str) -> Any:
    """The object of this name, ``package.module:Class``, or ``None``: then its feature is off, and it is not used."""
    module_name, _, path = where.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for each in path.split("."):
            found = getattr(found, each)
    except (ImportError, AttributeError):
        return None
    return found


def names(owner: str, several: str) -> Iterator[Name]:
    """Names that have to exist: ``names("package.module", "This That")``, or of a class, ``"package.module:Class"``."""
    for one in several.split():
        yield Name(f"{owner}.{one}" if ":" in owner else f"{owner}:{one}")


def attributes(owner: str, several: str) -> Iterator[Name]:
    """Attributes that instances of a class have to have."""
    for one in several.split():
        yield Name(f"{owner}.{one}", is_attribute=True)


def calls(owner: str, **functions: str) -> Iterator[Name]:
    """Functions, methods and classes that we call, with the parameters that we pass."""
    for one, parameters in functions.items():
        yield Name(f"{owner}.{one}" if ":" in owner else f"{owner}:{one}", parameters)


def overrides(owner: str, **methods: str) -> Iterator[Name]:
    """Methods of a class that we override, with their parameters after ``self``."""
    for one, parameters in methods.items():
        yield Name(f"{owner}.{one}", f"self, {parameters}" if parameters else "self", is_overridden=True)


def _split(parameters: str) -> tuple[list[str], list[str]]:
    by_position, _, by_keyword = parameters.partition("*")
    first, second = ([name.strip() for name in text.split(",") if name.strip()] for text in (by_position, by_keyword))
    return first, second


def _takes(signature: inspect.Signature, parameters: str) -> bool:
    """Whether our call still fits, with the same meaning."""
    by_position, by_keyword = _split(parameters)
    known = list(signature.parameters.values())
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in known[:1]):
        return True  # somebody has wrapped it
    placed = [one.name for one in known if one.kind in _POSITIONAL][: len(by_position)]
    needed = [one.name for one in known if one.default is one.empty and one.kind not in _ANY]
    return (
        placed == by_position
        and all(name in signature.parameters for name in by_keyword)
        and not set(needed) - set(by_position) - set(by_keyword)
    )


def _is_same(signature: inspect.Signature, parameters: str) -> bool:
    by_position, by_keyword = _split(parameters)
    known = list(signature.parameters.values())
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in known[:1]):
        return True  # somebody has wrapped it
    return [one.name for one in known if one.kind in _POSITIONAL] == by_position and [
        one.name for one in known if one.kind not in _POSITIONAL
    ] == by_keyword


def _shown(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _gives(owner: Any, name: str) -> bool:
    """Whether instances of a class have this attribute, judging by the code of the class."""
    for each in owner.__mro__:
        if name in vars(each) or name in getattr(each, "__annotations__", {}):
            return True
        for method in vars(each).values():
            code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
            if code is not None and name in code.co_names:
                return True
    return False


class Feature:
    """A feature of the proxy that is off if a name it needs has changed."""

    __slots__ = ("_is_reported", "_owner", "effect", "is_on", "needs", "problems", "title")

    def __init__(self, title: str, effect: str, needs: Iterable[Name] = ()) -> None:
        """For the log, ``title`` and ``effect``: the consequence for users if the feature is off."""
        self.title = title
        self.effect = effect
        self.needs = tuple(needs)
        self.problems: list[str] = []
        self.is_on = True
        self._is_reported = False
        self._owner = "mitmproxy"

    def __repr__(self) -> str:
        return f"<{self.title}: {'on' if self.is_on else 'off, ' + ', '.join(self.problems)}>"

    def check(self, owner: str) -> None:
        """Look all names up. ``owner``: the library and its version, such as ``mitmproxy 12.3.1``."""
        self._owner = owner
        found = dict.fromkeys(problem for name in self.needs if (problem := name.problem()) is not None)
        self.problems = list(found)
        self.is_on = not found

    def lose(self, problem: str, logger: logging.Logger | None = None) -> None:
        """Switch the feature off for a problem found later, and log that at once if there is a ``logger``."""
        self.problems.append(problem)
        self.is_on = False
        if logger is not None:
            report([self], logger)

    def guard(self, logger: logging.Logger, work: Callable[[], None]) -> None:
        """Run code that touches private attributes of instances, and switch the feature off if they are missing."""
        if self.is_on:
            try:
                work()
            except (AttributeError, TypeError) as error:
                self.lose(" ".join(str(error).split()), logger)


def report(parts: Iterable[Feature], logger: logging.Logger) -> None:
    """Log one line for all features that are off for the same reason, once."""
    lost: dict[tuple[str, ...], list[Feature]] = {}
    for part in parts:
        if not part.is_on and part.problems and not part._is_reported:
            part._is_reported = True
            lost.setdefault((part._owner, *part.problems), []).append(part)
    for (owner, *problems), found in lost.items():
        shown = ", ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
        effects = "; ".join(f"{part.title} off: {part.effect}" for part in found)
        logger.warning("proxy-cache: %s changed %s: %s", owner, shown, effects)
