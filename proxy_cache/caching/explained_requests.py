"""What there is in a request that matters to a cache, for those who ask (:mod:`.explain`)."""

from __future__ import annotations

from ..semantics.credentials import credentials_of
from ..semantics.directives import NOTHING, request_cache_control
from ..semantics.validation import is_conditional
from .answers import Exchange
from .fills.request import FillRequest
from .sentences import WHY_NOT_STORED, Sentence


def about_request(exchange: Exchange) -> list[Sentence]:
    """What the operator's rules make of it, before anything is looked up."""
    policy, sentences = exchange.policy, []
    if exchange.key != exchange.target.key:
        sentences.append(Sentence("cache_key_ignore_query leaves parameters of the query out of the key."))
    if policy.ignore_directives and request_cache_control(exchange.headers) is not NOTHING:
        sentences.append(
            Sentence(
                "cache_ignore_request_directives: the request's Cache-Control and Pragma don't count, but for "
                "only-if-cached.",
                "RFC 9111 §5.2.1",
            )
        )
    if policy.ignore_authorization and credentials_of(exchange.headers, policy.credentials):
        sentences.append(
            Sentence(
                "cache_ignore_authorization: what comes to a request with credentials is for all.", "RFC 9111 §3.5"
            )
        )
    return sentences


def about_fill(exchange: Exchange, request: FillRequest, *, is_uncacheable: bool) -> list[Sentence]:
    """What is asked of the origin, for whom, and what is known already of whether it will be stored.
    ``is_uncacheable``: a recent response wasn't, and that is about this request, too."""
    sentences = [*_about_the_ask(exchange, request), *_about_storing(exchange, request)]
    if is_uncacheable:
        sentences.append(
            Sentence("A recent response could not be stored: for two minutes nobody waits for another's request.")
        )
    elif request.private:
        sentences.append(Sentence("No other request shares the answer."))
    if exchange.policy.patience is not None:
        sentences.append(Sentence(f"It may queue for {exchange.policy.patience} s, by cache_queue_timeout."))
    return sentences


def _about_the_ask(exchange: Exchange, request: FillRequest) -> list[Sentence]:
    sentences, requirements = [], exchange.requirements
    if requirements.is_for_origin:
        sentences.append(
            Sentence("If-Match and If-Unmodified-Since are for the origin: they go there.", "RFC 9111 §4.3.2")
        )
    elif request.passes_condition_on and is_conditional(request.headers):
        sentences.append(
            Sentence("Nothing is stored that its condition could be about: the origin is asked it.", "RFC 9111 §4.3.2")
        )
    if requirements.is_bound:
        sentences.append(Sentence("The request is signed: it goes out just as it is.", "RFC 9421 §2"))
    part = request.range_fetch
    if part is not None:
        how = "as it is" if part.is_exact else "widened to whole blocks (cache_block_size)"
        sentences.append(Sentence(f"A range of it is asked for, {how}.", "RFC 9110 §14.2"))
    elif "range" in exchange.headers and "range" not in request.headers:
        sentences.append(Sentence("All of it is asked for, and the range cut out of that.", "RFC 9111 §3.3"))
    return sentences


def _about_storing(exchange: Exchange, request: FillRequest) -> list[Sentence]:
    policy, sentences = exchange.policy, []
    if exchange.directives.no_store:
        sentences.append(_will_not("request-no-store"))
    elif not request.keep:
        sentences.append(_will_not("bypass"))
    if not policy.ignore_authorization:
        if "authorization" in exchange.headers:
            sentences.append(
                Sentence(
                    "The request has Authorization: the answer is stored only with public, s-maxage or "
                    "must-revalidate.",
                    "RFC 9111 §3.5",
                )
            )
        elif names := credentials_of(exchange.headers, policy.credentials):
            sentences.append(
                Sentence(
                    f"The request says who is asking ({', '.join(sorted(names))}): the answer is stored only if it "
                    "gives a lifetime, or says no-cache, public or must-revalidate.",
                    "RFC 9111 §4.2.2",
                )
            )
    if policy.signed_url:
        sentences.append(
            Sentence(
                "The URL is signed: what is behind it is stored only with public, immutable or s-maxage, or by a rule."
            )
        )
    return sentences


def _will_not(word: str) -> Sentence:
    why = WHY_NOT_STORED[word]
    return Sentence(f"The answer will not be stored ({word}): {why.text}", why.rfc)
