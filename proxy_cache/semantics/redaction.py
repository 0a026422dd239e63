"""Makes URLs and texts safe for a log: no secrets, a single line, no control sequences for a terminal.

Secrets are guessed by names (of query and path parameters) and by shape (segments after a name such as ``/token/``,
tokens with their issuer's prefix, long random words). Digests stay readable: hexadecimal, as in by-hash paths, package
files and git's object ids, or after ``sha256:``. In doubt a value is hidden.

Patterns are applied to clients' input, so none of them backtracks, and repetitions are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from .credentials import is_secret_parameter

HIDDEN: Final = "***"
URL_MAX: Final = 4096
"""Characters of a URL that are shown."""

# Names before a secret in a path. Not "key", "auth" and "session": in APIs ordinary words follow them, too.
_NAMES_NEXT: Final = re.compile(
    r"(?:access|auth|api|private|deploy|job|personal)?[_-]?tokens?|secrets?|api[_-]?keys?|passwords?|passwd|jwt|bearer"
)
_NEXT_LENGTH: Final = 6
"""Characters of the shortest segment that counts as a secret after such a name. (With a dot it is a file.)"""
_MARKED: Final = re.compile(
    r"eyJ[\w-]{8,}+(?:\.[\w-]*+){0,4}+"  # JWT
    r"|[A-Za-z]*+[0-9]{3,}+:(?![0-9A-Fa-f]*+$)[\w-]{16,}+"  # bot123456:AA…
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|(?:gh[pousr]_|github_pat_|glpat-|npm_|pypi-AgE|xox[abeoprs]-|AIza|ya29\.|[sr]k_live_|[sr]k_test_|hv[bs]\.)"
    r"[\w.-]{16,}+"
)
"""Recognisable tokens, as a whole segment."""
_RANDOM_LENGTH: Final = 20
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F-]+")
_BASE64: Final = re.compile(r"[\w+=~%-]+", re.ASCII)
_CHANGE: Final = re.compile(r"(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[0-9]|(?<=[0-9])[A-Za-z]|(?<=[A-Z][A-Z])[a-z]")

# "//user:password@", also of a URL within a URL, plain or percent-encoded.
_USERINFO: Final = re.compile(r"(//)[^/?#]{1,512}@|(%2[Ff]%2[Ff])[^/?#&;]{1,128}(?:@|%40)")

# Marks of something nested in a parameter or a segment.
_NESTING: Final = re.compile(r"[=%:/]")
_BEFORE_NAME: Final = re.compile(r"[^\w.-]")
_AROUND_WORDS: Final = re.compile(r"[/?&;=#\"',\s]")
NAME_MAX: Final = 64
"""Characters of a nested name, from its end, that are examined."""
LEVELS: Final = 3
"""Levels of percent-encoding that are decoded."""

_SEPARATOR: Final = re.compile(r"([&;])")
# Signs that a URL needs redaction. This runs for every miss, so each is an expression that is fast to search for: a
# class of characters, or one that begins with a slash.
_ODD: Final = re.compile(r"[^!\"$-:<>A-~]")
"""Invisible characters, and ``#;=?@``."""
_ENCODED: Final = re.compile(r"%(?:40|3[Dd]|25|22|27|2[Ff])")
"""``@`` and delimiters of parameters, percent-encoded."""
_LONG: Final = re.compile(r"/(?:[^/.]{20}|eyJ|ya29\.|hv[bs]\.)")
_BEFORE: Final = re.compile(r"[TtSsKkPpJjBb](?i:oken|ecret|ey|assw|wt|earer)[^/]{0,4}/")
"""The end of a name before a secret segment."""
_USUAL_COLONS: Final = 2
"""After the scheme, and before a port. Another one may be in a token."""

_CREDENTIAL: Final = re.compile(
    r"(authorization(?:['\"][ \t]{0,8},|['\"]?[ \t]{0,8}[:=])[ \t]{0,8}(?:b?['\"])?)"
    r"(?:[\w-]{1,32}+[ \t]{1,8}+)?[^\s'\"\\]++",
    re.IGNORECASE,
)
"""A field in a text, as it came or as Python shows it: all of the value up to a space or quote, with its scheme."""
_URL: Final = re.compile(r"https?://[^\s'\"<>]++", re.IGNORECASE)


class Rules:
    """The operator's additions: names of parameters, and regular expressions, whose matches are hidden (or their
    groups, if they have any)."""

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[re.Pattern[str]] = ()) -> None:
        self.names = frozenset(name.lower() for name in names)
        self.patterns = tuple(patterns)


_NONE: Final = Rules()
_rules = _NONE


def use(rules: Rules) -> None:
    """Set the operator's rules, for the whole process."""
    global _rules
    _rules = rules if rules.names or rules.patterns else _NONE
    _redacted.cache_clear()


def shown(url: str) -> str:
    """Like :func:`redacted`, but faster for URLs without secrets."""
    if (
        _rules is not _NONE
        or _ODD.search(url)
        or _LONG.search(url)
        or _BEFORE.search(url)
        or url.count(":") > _USUAL_COLONS
        or ("%" in url and _ENCODED.search(url))
        or len(url) > URL_MAX
    ):
        return redacted(url)
    return url


def redacted(url: str) -> str:
    """``url`` for a log: without userinfo and fragment, secrets as ``***``, always on one line."""
    if len(url) <= URL_MAX:
        return _redacted(url)
    # Up to the last whole parameter or segment: half a secret, or half a userinfo, would not be recognised.
    cut = max(url.rfind(end, 0, URL_MAX) for end in "/?&;") + 1
    return _redacted(url[:cut]) + "[...]"


def _redact(url: str) -> str:
    rest = url.partition("#")[0]
    path, question, query = rest.partition("?")
    scheme, separator, tail = path.partition("://")
    if not separator:
        scheme, tail = "", path
    authority, slash, path = tail.partition("/")
    # RFC 9110 §4.2.4: userinfo in an http URI is deprecated, and is shown to nobody.
    authority = authority.rpartition("@")[2].rpartition("%40")[2]
    clean = f"{scheme}{separator}{authority}{slash}{_redacted_path(path)}"
    if question:
        clean += "?" + "".join(_redacted_parameter(part) for part in _SEPARATOR.split(query))
    if "@" in clean or "%40" in clean:
        clean = _USERINFO.sub(r"\1\2", clean)
    for pattern in _rules.patterns:
        clean = pattern.sub(_hide, clean)
    return one_line(clean).replace(" ", "%20")


_redacted = lru_cache(maxsize=4096)(_redact)


def _hide(match: re.Match[str]) -> str:
    if not match.re.groups:
        return HIDDEN
    text, end = match[0], len(match[0])
    for group in range(match.re.groups, 0, -1):
        start, stop = match.span(group)
        start, stop = start - match.start(), stop - match.start()
        if 0 <= start < stop <= end:  # (groups within a hidden group are hidden already)
            text, end = f"{text[:start]}{HIDDEN}{text[stop:]}", start
    return text


def _redacted_path(path: str) -> str:
    segments = path.split("/")
    shortest = 0
    for index, segment in enumerate(segments):
        if segment:
            segments[index] = _redacted_segment(segment, shortest)
        shortest = _after(segment.lower()) if len(segment) <= 256 else 0
    return "/".join(segments)


def _after(segment: str) -> int:
    """Least characters of the next segment that make it a secret; 0: it isn't one."""
    if segment in _rules.names:
        return 1
    return _NEXT_LENGTH if _NAMES_NEXT.fullmatch(segment) else 0


def _redacted_segment(segment: str, shortest: int) -> str:
    if "%" in segment and _has_secrets(segment):
        return HIDDEN
    if ";" in segment or "=" in segment:
        # RFC 3986 §3.3: "the semicolon and equals reserved characters are often used to delimit parameters", as in
        # ";jsessionid=…".
        first, *others = segment.split(";")
        parts = (_redacted_parameter(first), *map(_redacted_parameter, others))
        kept = ";".join(parts)
        if kept != segment:
            return kept
    if 0 < shortest <= len(segment) and (shortest == 1 or "." not in segment):
        return HIDDEN
    if _MARKED.fullmatch(segment):
        return HIDDEN
    if len(segment) >= _RANDOM_LENGTH and _is_random(segment):
        return HIDDEN
    return segment


def _is_random(word: str) -> bool:
    """Whether it looks like a token in base 64 or 62: small letters, capitals and digits that alternate everywhere, not
    only between words as in ``CamelCaseNames2``."""
    if not _BASE64.fullmatch(word) or _HEXADECIMAL.fullmatch(word):
        return False
    some = word[:256]
    if not (any(map(str.islower, some)) and any(map(str.isupper, some)) and any(map(str.isdigit, some))):
        return False
    return 4 * len(_CHANGE.findall(some)) >= len(some)


def _redacted_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not value:
        return name + equals
    plain = unquote(name).lower() if len(name) <= 256 else name.lower()
    if _is_secret(plain) or _MARKED.fullmatch(value) or (_NESTING.search(value) and _has_secrets(value)):
        return f"{name}={HIDDEN}"
    return name + equals + value


def _is_secret(name: str) -> bool:
    return name in _rules.names or is_secret_parameter(name)


def _has_secrets(value: str) -> bool:
    """Whether a URL, parameters or JSON nested in ``value``, encoded any number of times, contain a secret."""
    for level in range(LEVELS + 1):
        *names, _ = value.replace('":', "=").replace("':", "=").split("=")
        if any(_is_secret(_BEFORE_NAME.split(text[-NAME_MAX:].rstrip("]"))[-1].lower()) for text in names):
            return True
        if any(map(_MARKED.fullmatch, _AROUND_WORDS.split(value))) or (level > 1 and _USERINFO.search(value)):
            return True
        plain = unquote(value)
        if plain == value:
            return False
        value = plain
    return True  # encoded that often, it is meant to be hidden


def one_line(text: str) -> str:
    """``text`` with control characters, lone surrogates and the like as escape sequences: they could forge a line of
    the log, or control a terminal."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode("ascii")


def _in_text(match: re.Match[str]) -> str:
    """Redact a URL in a text. If the text was cut off there, the URL ends with its last whole part: the rest may be
    half a secret, or userinfo without its ``@``."""
    url = match[0]
    cut = next((mark for mark in _CUT_OFF if url.endswith(mark)), "")
    if not cut:
        return redacted(url)
    return redacted(url[: max(map(url.rfind, "/?&;")) + 1]) + cut


_CUT_OFF: Final = ("[...]", "...")
"""The ends of shortened texts (:func:`.texts.brief`)."""


def for_log(text: str, *, keep_lines: bool = False) -> str:
    """Any text for a log, with redacted URLs and credentials, on one line; ``keep_lines``: line breaks stay (for
    tracebacks)."""
    if "://" in text:
        text = _URL.sub(_in_text, text)
    if "uthorization" in text:  # mitmproxy quotes heads that have broken off, where it tells everything
        text = _CREDENTIAL.sub(rf"\1{HIDDEN}", text)
    if keep_lines and "\n" in text:
        return "\n".join(map(one_line, text.split("\n")))
    return one_line(text)
