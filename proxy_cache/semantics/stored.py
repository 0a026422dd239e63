"""A stored response, and all values derived from it alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .dates import format_http_date
from .directives import NOTHING, CacheControl, parse_cache_control
from .entity_tags import entity_tag, opaque_tag, weak_match
from .freshness import (
    ASSIGNED,
    HEURISTIC,
    NO_LIFETIME,
    corrected_initial_age,
    date_value,
    explicit_lifetime,
    heuristic_lifetime,
)
from .headers import Headers, end_to_end
from .policy import BY_THE_BOOK, Policy
from .storing import ERROR_LIFETIME_MAX, Verdict, is_unqualified, judge, speaks_of_resource
from .targeted import parse_targeted
from .vary import NEVER, selecting_values, vary_names

_DERIVE = -1
_AGE = frozenset({"age"})
_NOT_SEEN = frozenset({"cache-control", "pragma", "if-none-match", "if-modified-since"})
"""Request fields that are for caches, and depend on their state."""
_AS_IT_IS = Verdict(None)
_NEVER_FRESH = float("-inf")

# RFC 9111 §3.2 updates every field but: Content-Length; fields "that the cache's stored response depends upon"
# (Content-Encoding: our bytes are coded as they were); fields "automatically processed and removed" (Content-Range).
# ETag was used to match the 304, and some origins send the tag of the uncoded representation in it. Set-Cookie is for
# the client, and a 304 must not add a field that `storing` would have refused. Age is part of `initial_age`.
# Content-Digest and Content-MD5 are about the content of their own message (RFC 9530 §2), and a 304 has none.
_NOT_UPDATED = (
    "content-length", "content-encoding", "content-range", "content-md5", "content-digest", "etag", "set-cookie", "age",
)  # fmt: skip


@dataclass(slots=True)
class StoredResponse:
    """The head of a stored response. Times are unix seconds, ages and lifetimes whole seconds. Not changed after it is
    made. (Not frozen: Python would then make a call to set each field.)

    Create it with :meth:`of` from an origin's response, or with the constructor from the index, with ``initial_age``,
    since the Age header is not stored.
    """

    status: int
    headers: Headers
    """End-to-end fields, without Age."""
    request_time: float
    response_time: float
    vary: tuple[tuple[str, str | None], ...] = ()
    """The original request's values of the fields that Vary names."""
    initial_age: int = _DERIVE
    """corrected_initial_age (RFC 9111 §4.2.3)."""

    assigned_lifetime: int | None = None
    """Seconds of freshness from an operator's rule, or guessed for a response without caching fields (RFC 9111
    §4.2.2)."""
    targeted: str | None = None
    """The targeted field that replaces Cache-Control and Expires (RFC 9213)."""

    cache_control: CacheControl = field(init=False, repr=False, compare=False)
    lifetime: int = field(init=False, compare=False)
    """freshness_lifetime (RFC 9111 §4.2.1)."""
    lifetime_rule: str = field(init=False, repr=False, compare=False)
    """What gives it that lifetime, one of :data:`~.freshness.LIFETIME_RULES`."""
    date: float = field(init=False, repr=False, compare=False)
    """When the origin generated it."""
    etag: str | None = field(init=False, repr=False, compare=False)
    """A well-formed entity tag, with ``W/`` if it is weak."""
    last_modified: str | None = field(init=False, repr=False, compare=False)
    always_validate: str = field(init=False, repr=False, compare=False)
    """The directive that forbids any reuse without validation, fresh or not; empty if there is none."""
    never_stale: str = field(init=False, repr=False, compare=False)
    """The directive, or ``error``, that forbids any reuse when stale; empty if there is none."""
    fresh_until: float = field(init=False, repr=False, compare=False)
    """Fresh, and usable without validation, before this time."""

    def __post_init__(self) -> None:
        headers = self.headers
        ruled = self.assigned_lifetime is not None
        if self.targeted is not None:
            directives = parse_targeted(headers.get(self.targeted) or "") or NOTHING
        else:
            directives = parse_cache_control(headers.get_all("cache-control"))
        date = date_value(headers, self.response_time)
        explicit = headers if self.targeted is None else headers.without("expires")
        if self.assigned_lifetime is not None:
            lifetime, rule = self.assigned_lifetime, ASSIGNED
        elif (found := explicit_lifetime(explicit, directives, date)) is not None:
            lifetime, rule = found
        else:
            lifetime = heuristic_lifetime(self.status, headers, directives, date)
            rule = HEURISTIC if lifetime else NO_LIFETIME
        if self.status >= 500 and not ruled:
            lifetime = min(lifetime, ERROR_LIFETIME_MAX)
        initial_age = self.initial_age
        if initial_age < 0:
            initial_age = corrected_initial_age(headers, self.request_time, self.response_time)
        always_validate, never_stale = _restrictions(directives, self.status, ruled=ruled)
        fresh_for = lifetime - initial_age
        fresh = fresh_for > 0 and not always_validate
        self.initial_age = initial_age
        self.cache_control = directives
        self.lifetime = lifetime
        self.lifetime_rule = rule
        self.date = date
        self.etag = entity_tag(headers)
        self.last_modified = headers.get("last-modified")
        self.always_validate = always_validate
        self.never_stale = never_stale
        self.fresh_until = self.response_time + fresh_for if fresh else _NEVER_FRESH

    @classmethod
    def of(
        cls,
        status: int,
        headers: Headers,
        request_headers: Headers,
        request_time: float,
        response_time: float,
        verdict: Verdict = _AS_IT_IS,
    ) -> StoredResponse:
        """From an origin's response, its request, and the verdict about storing it."""
        names = vary_names(headers) if "vary" in headers else ()
        if status >= 400 and names is not None and verdict.why_not is None and not speaks_of_resource(status):
            # A filter, a field that is too long: the response to this one request, whatever its caching fields say. RFC
            # 9111 §4.1 lets a cache require more matches than Vary names; here all fields that the origin received.
            names = tuple(sorted(request_headers.names.union(names) - _NOT_SEEN))
        return cls(
            status=status,
            headers=end_to_end(headers).without_any(_AGE | verdict.omitted if verdict.omitted else _AGE),
            request_time=request_time,
            response_time=response_time,
            vary=NEVER if names is None else selecting_values(names, request_headers, verdict.credentials),
            initial_age=corrected_initial_age(headers, request_time, response_time),
            assigned_lifetime=verdict.assigned,
            targeted=verdict.targeted,
        )

    @property
    def heuristic(self) -> bool:
        """Whether the lifetime is a guess of RFC 9111 §4.2.2's."""
        return self.lifetime_rule in (HEURISTIC, NO_LIFETIME)

    def age(self, now: float) -> int:
        """current_age (RFC 9111 §4.2.3). A clock set back doesn't make it younger than on arrival."""
        return self.initial_age + max(0, int(now - self.response_time))

    def ttl(self, now: float) -> int:
        """Seconds that it stays fresh; 0 or negative if it is stale."""
        return self.lifetime - self.age(now)

    def updated_by(
        self,
        headers_304: Headers,
        request_time: float,
        response_time: float,
        request_headers: Headers | None = None,
        policy: Policy = BY_THE_BOOK,
    ) -> StoredResponse:
        """This response, updated by the 304 that validated it (RFC 9111 §4.3.4, §3.2) or the 200 to a HEAD (§4.3.5).

        ``request_headers``: of the validating request, which selects this response from now on; ``None``: the selecting
        values stay. Returns ``self``, unchanged, if the new fields are of another representation.
        """
        new = end_to_end(headers_304)
        if not self.is_selected_by(new):
            return self
        update = new.without(*_NOT_UPDATED)
        if "date" not in update:
            # RFC 9110 §6.6.1: a recipient with a clock adds Date. With the old one the update would look old.
            update = update.set("date", format_http_date(response_time))
        headers = Headers((*self.headers.without(*update.names).fields, *update.fields))
        verdict = judge(request_headers or Headers(), self.status, headers, policy)
        return StoredResponse(
            status=self.status,
            headers=headers.without(*verdict.omitted),
            request_time=request_time,
            response_time=response_time,
            vary=self._vary_after(headers, request_headers, policy),
            initial_age=corrected_initial_age(new, request_time, response_time),
            assigned_lifetime=verdict.assigned,
            targeted=verdict.targeted,
        )

    def made_stale(self) -> StoredResponse:
        """This response, made so old that it has to be validated."""
        return replace(self, initial_age=max(self.initial_age, self.lifetime))

    def expired(self, now: float) -> StoredResponse:
        """This response, as if its lifetime had ended just ``now``; itself, if it has ended before. How long it may be
        served stale (RFC 5861) counts from then on."""
        if self.initial_age >= self.lifetime or not now < self.fresh_until:
            return self
        elapsed = max(0, int(now - self.response_time))
        return replace(self, initial_age=max(self.initial_age, self.lifetime - elapsed))

    def for_the_asker(self, headers_304: Headers) -> Headers | None:
        """The fields for the client whose request led to this 304, if the 304 has fields that aren't stored (RFC 9111
        §5.2.2.4, §5.2.2.7)."""
        own = [
            (name, value)
            for name, value in end_to_end(headers_304).fields
            if (key := name.decode("latin-1").lower()) not in self.headers
            and (key == "set-cookie" or key not in _NOT_UPDATED)
        ]
        return Headers((*self.headers.fields, *own)) if own else None

    def is_selected_by(self, new: Headers) -> bool:
        """RFC 9111 §4.3.4: without the same validator "the cache MUST NOT use the new response to update"."""
        if "etag" in new:
            # Compared weakly: an origin that compresses on the way out sends W/"a" with a 200 and "a" with the 304.
            tag = entity_tag(new)
            if tag is None:
                opaque = opaque_tag(new)
                return opaque is not None and opaque == opaque_tag(self.headers)
            return self.etag is not None and weak_match(tag, self.etag)
        modified = new.get("last-modified")
        return modified is None or self.last_modified is None or modified == self.last_modified

    def _vary_after(
        self, headers: Headers, request: Headers | None, policy: Policy
    ) -> tuple[tuple[str, str | None], ...]:
        names = vary_names(headers)
        if names is None:
            return NEVER
        if self.status >= 400 and not speaks_of_resource(self.status):
            return self.vary
        if request is not None:
            return selecting_values(names, request, policy.credentials)
        # If the 304 names fields whose values weren't stored, no request can be matched any more.
        known = {name for name, _ in self.vary}
        return self.vary if known.issuperset(names) else NEVER

    @property
    def must_not_be_kept(self) -> bool:
        """Whether an update forbids storing it (RFC 9111 §5.2.2.5, §5.2.2.7)."""
        control = self.cache_control
        return self.assigned_lifetime is None and (
            control.private
            or is_unqualified(control.private_fields)
            or (control.no_store and not control.must_understand)
        )


def _restrictions(directives: CacheControl, status: int, *, ruled: bool) -> tuple[str, str]:
    """What forbids any reuse without validation, and any reuse when stale: a directive, or that it is an error."""
    always = ""
    if ruled:
        pass
    # The qualified form allows reuse "if the listed header fields are excluded", which they are.
    elif directives.no_cache or (directives.no_cache_fields and is_unqualified(directives.no_cache_fields)):
        always = "no-cache"  # RFC 9111 §5.2.2.4
    # A 304 may add these to a stored response (RFC 9111 §5.2.2.5, §5.2.2.7).
    elif directives.no_store and not directives.must_understand:
        always = "no-store"
    elif directives.private or (directives.private_fields and is_unqualified(directives.private_fields)):
        always = "private"
    # RFC 9111 §4.2.4: stale is "prohibited by an explicit in-protocol directive (e.g., by a no-cache response
    # directive, a must-revalidate response directive, or an applicable s-maxage or proxy-revalidate […])". Stale
    # errors are useless.
    if always:
        return always, always
    if directives.must_revalidate:
        return "", "must-revalidate"
    if directives.proxy_revalidate:
        return "", "proxy-revalidate"
    if directives.s_maxage is not None and not ruled:
        return "", "s-maxage"
    return "", "error" if status >= 500 else ""
