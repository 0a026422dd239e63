"""The limiter alone: who gets the next slot, who is told what, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy_cache.caching.limiter import Limits, OriginLimiter, Overloaded, Place, Ticket, TicketState
from tests.support.origin import PATIENCE
from tests.support.tasks import begun


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), PATIENCE))


class Flow:
    """A flow as the limiter sees it: it remembers how its wait ended."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def __call__(self, overloaded: Overloaded) -> None:
        self.ended.set_result(overloaded)


class Harness:
    def __init__(self, **limits: Any) -> None:
        self.observed: list[str] = []
        self.limiter = OriginLimiter(
            Limits(**limits), observe=lambda outcome, seconds: self.observed.append(outcome), rng=random.Random(1)
        )

    def enter(self, client: str = "a", host: str = "h") -> tuple[Ticket, Place | None, Flow]:
        flow = Flow()
        ticket, place = self.limiter.enter(host, client, flow)
        return ticket, place, flow


def test_without_a_limit_nobody_waits_and_nothing_is_observed() -> None:
    async def story() -> None:
        harness = Harness()
        tickets = [harness.enter()[0] for _ in range(100)]
        assert harness.limiter.in_flight == 100
        for ticket in tickets:
            ticket.end()
        assert harness.limiter.in_flight == 0
        assert harness.observed == []

    run(story)


def test_a_slot_that_comes_back_goes_to_the_next_in_line() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        first, _, _ = harness.enter()
        second, _, _ = harness.enter()
        third, _, _ = harness.enter()
        assert [first.state, second.state, third.state] == [TicketState.ACTIVE, TicketState.QUEUED, TicketState.QUEUED]
        first.end()
        first.end()  # idempotent: no second slot comes of it
        assert (second.state, third.state) == (TicketState.ACTIVE, TicketState.QUEUED)
        assert harness.observed == ["admitted"]

    run(story)


def test_turns_go_round_between_clients() -> None:
    """One agent queues five, another comes later with one: it is next but one, not sixth."""

    async def story() -> None:
        harness = Harness(max_in_flight=1)
        running, _, _ = harness.enter("greedy")
        greedy = [harness.enter("greedy")[0] for _ in range(5)]
        modest, _, _ = harness.enter("modest")
        order = []
        current = running
        for _ in range(6):
            current.end()
            current = next(ticket for ticket in [*greedy, modest] if ticket.state is TicketState.ACTIVE)
            order.append("modest" if current is modest else "greedy")
        assert order.index("modest") <= 1

    run(story)


def test_joining_a_fill_that_a_greedy_client_queued_far_back_brings_it_forward() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        running, _, _ = harness.enter("greedy")
        greedy = [harness.enter("greedy")[0] for _ in range(10)]
        greedy[-1].join("modest", Flow())
        running.end()
        greedy[0].end()
        assert greedy[-1].state is TicketState.ACTIVE

    run(story)


def test_a_full_queue_turns_away_at_once() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_max=1)
        harness.enter()
        harness.enter()
        with pytest.raises(Overloaded) as caught:
            harness.enter()
        assert caught.value.outcome == "rejected"
        assert 1 <= caught.value.retry_after <= 10
        assert harness.observed == ["rejected"]

    run(story)


def test_a_wait_ends_at_the_time_limit() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_timeout=0.02)
        harness.enter()
        ticket, _, flow = harness.enter()
        overloaded = await flow.ended
        assert overloaded.outcome == "timeout"
        assert ticket.state is TicketState.ENDED
        assert harness.limiter.queued == 0
        assert harness.observed == ["timeout"]

    run(story)


def test_a_late_joiner_has_its_own_time() -> None:
    """The leader's time is over, the joiner's is not: the fill stays in the queue for the joiner."""

    async def story() -> None:
        now = 0.0
        observed: list[str] = []
        limiter = OriginLimiter(
            Limits(max_in_flight=1, queue_timeout=10), clock=lambda: now, observe=lambda o, s: observed.append(o)
        )
        running, _ = limiter.enter("h", "a", Flow())
        leader, joiner = Flow(), Flow()
        ticket, _ = limiter.enter("h", "a", leader)
        now = 9.0
        ticket.join("b", joiner)
        now = 11.0
        limiter.configure(limiter.limits)  # it looks at the clock
        assert leader.ended.done()
        assert not joiner.ended.done()
        assert ticket.state is TicketState.QUEUED
        running.end()
        assert ticket.state is TicketState.ACTIVE
        assert observed == ["admitted"]

    run(story)


def test_the_queue_goes_with_the_last_who_leaves() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        harness.enter()
        ticket, leader, _ = harness.enter("a")
        joiner = ticket.join("b", Flow())
        assert leader is not None
        assert joiner is not None
        waiting = await begun(ticket.admission())
        leader.leave()
        assert ticket.state is TicketState.QUEUED
        joiner.leave()
        assert ticket.state is TicketState.ENDED
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await ticket.admission()
        assert harness.observed == ["canceled"]
        assert harness.limiter.queued == 0

    run(story)


def test_limits_changed_while_running_apply_to_the_queue_at_hand() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        flows = [harness.enter() for _ in range(6)]
        harness.limiter.configure(Limits(max_in_flight=3))
        assert harness.limiter.in_flight == 3
        harness.limiter.configure(Limits(max_in_flight=1, queue_max=1))
        assert harness.limiter.queued == 1
        assert (await flows[5][2].ended).outcome == "rejected", "the newest are turned away"
        harness.limiter.configure(Limits(max_in_flight=0))
        assert harness.limiter.queued == 0
        assert harness.limiter.in_flight == 4

    run(story)


def test_a_shorter_time_limit_ends_those_who_have_waited_longer() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_timeout=1000)
        harness.enter()
        _, _, flow = harness.enter()
        harness.limiter.configure(Limits(max_in_flight=1, queue_timeout=0))
        assert (await flow.ended).outcome == "timeout"

    run(story)


def test_a_full_host_is_stepped_over_and_loses_no_turn() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=2, max_in_flight_per_host=1)
        one, _, _ = harness.enter("a", "one")
        waiting, _, _ = harness.enter("a", "one")
        other, _, _ = harness.enter("b", "two")
        assert waiting.state is TicketState.QUEUED
        assert other.state is TicketState.ACTIVE
        one.end()
        assert waiting.state is TicketState.ACTIVE

    run(story)


def test_a_ticket_admitted_and_cancelled_in_one_turn_gives_its_slot_back() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        first, _, _ = harness.enter()
        second, _, _ = harness.enter()

        async def fill(ticket: Ticket) -> None:
            try:
                await ticket.admission()
                await asyncio.Event().wait()
            finally:
                ticket.end()

        task = await begun(fill(second))
        first.end()  # admits the second ...
        task.cancel()  # ... whose task never gets to run again
        await asyncio.wait([task])
        assert harness.limiter.in_flight == 0

    run(story)


def test_retry_after_is_spread() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1)
        values = {harness.limiter.retry_after() for _ in range(200)}
        assert values <= set(range(1, 11))
        assert len(values) >= 4

    run(story)


def test_random_interleavings_never_lose_a_slot() -> None:
    """Arrivals, departures, ends, joins and changes of the limits in any order: the counts always add up."""

    async def story() -> None:
        rng = random.Random(7)
        harness = Harness(max_in_flight=3, max_in_flight_per_host=2, queue_max=20)
        limiter = harness.limiter
        tickets: list[Ticket] = []
        places: list[Place] = []
        for _ in range(5000):
            match rng.randrange(6):
                case 0 | 1:
                    try:
                        ticket, place, _ = harness.enter(rng.choice("abcd"), rng.choice("xyz"))
                    except Overloaded:
                        continue
                    tickets.append(ticket)
                    if place is not None:
                        places.append(place)
                case 2 if tickets:
                    tickets.pop(rng.randrange(len(tickets))).end()
                case 3 if places:
                    places.pop(rng.randrange(len(places))).leave()
                case 4 if tickets:
                    place = rng.choice(tickets).join(rng.choice("abcd"), lambda overloaded: None)
                    if place is not None:
                        places.append(place)
                case 5 if rng.random() < 0.05:
                    limiter.configure(Limits(rng.choice([0, 1, 3, 5]), rng.choice([0, 1, 2]), rng.choice([5, 20])))
            states = [ticket.state for ticket in tickets]
            assert limiter.in_flight == states.count(TicketState.ACTIVE)
            assert limiter.queued == states.count(TicketState.QUEUED)
            assert sum(limiter.snapshot()["queued_per_client"].values()) >= limiter.queued
            assert "of" in repr(limiter)
        for ticket in tickets:
            ticket.end()
        assert (limiter.in_flight, limiter.queued, limiter.snapshot()["queued_per_client"]) == (0, 0, {})

    run(story)


def outcome(flow: Flow) -> str | None:
    return flow.ended.result().outcome if flow.ended.done() else None


def test_a_full_queue_has_room_for_a_client_with_fewer_places() -> None:
    """The greedy client's newest places go, one for each, until both have as many."""

    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_max=10)
        harness.enter("running")
        greedy = [harness.enter("greedy")[2] for _ in range(10)]
        modest = [harness.enter("modest")[2] for _ in range(5)]
        assert [outcome(flow) for flow in greedy] == [None] * 5 + ["rejected"] * 5
        assert [outcome(flow) for flow in modest] == [None] * 5
        for client in ("greedy", "modest"):  # from here on it is one for one, which is of no use to anybody
            with pytest.raises(Overloaded, match="rejected"):
                harness.enter(client)
        assert harness.limiter.queued == 10
        assert harness.observed == ["rejected"] * 7

    run(story)


def test_a_ticket_that_a_modest_client_waits_for_is_not_taken_from_it() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_max=4)
        harness.enter("running")
        tickets = [harness.enter("greedy") for _ in range(4)]
        shared, flow = tickets[-1][0], Flow()
        shared.join("modest", flow)
        harness.enter("other")
        assert [outcome(one) for _, _, one in tickets] == [None, None, "rejected", None]
        assert outcome(flow) is None
        # Two addresses that wait for the same things are no better protected than one.
        accomplices = Harness(max_in_flight=1, queue_max=4)
        accomplices.enter("running")
        flows = [Flow() for _ in range(4)]
        for one in flows:
            accomplices.enter("first")[0].join("second", one)
        accomplices.enter("modest")
        assert [outcome(one) for one in flows] == [None, None, None, "rejected"]

    run(story)


def test_where_all_of_one_client_are_protected_another_makes_room() -> None:
    """Of the same length, or of the next that is long enough."""

    async def story(greedy: int, protected: int) -> None:
        harness = Harness(max_in_flight=1, queue_max=greedy + protected)
        harness.enter("running")
        flows = [harness.enter("greedy")[2] for _ in range(greedy)]
        for number in range(protected):
            harness.enter("protected")[0].join(f"modest {number}", Flow())
        harness.enter("newcomer")
        assert [outcome(flow) for flow in flows] == [None] * (greedy - 1) + ["rejected"]

    run(lambda: story(4, 4))
    run(lambda: story(2, 5))
    with pytest.raises(Overloaded, match="rejected"):
        run(lambda: story(1, 5))


def test_making_room_looks_at_so_many_places_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy_cache.caching.limiter.LOOKS_MAX", 10)

    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_max=60)
        harness.enter("running")
        last = [harness.enter("greedy")[2] for _ in range(20)]
        for number in range(40):
            harness.enter("protected")[0].join(f"modest {number}", Flow())
        with pytest.raises(Overloaded, match="rejected"):
            harness.enter("newcomer")
        assert [outcome(flow) for flow in last] == [None] * 20

    run(story)


def test_a_client_has_so_many_places_and_no_more() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_max_per_client=2)
        harness.enter("running")
        first = harness.enter("agent")[0]
        harness.enter("agent")
        first.join("agent", Flow())  # what it waits for already
        with pytest.raises(Overloaded, match="rejected"):
            harness.enter("agent")
        others = harness.enter("other")[0]
        with pytest.raises(Overloaded, match="rejected"):
            others.join("agent", Flow())
        first.end()
        harness.enter("agent")
        assert harness.limiter.queued == 3

    run(story)


def expected_to_make_room(tickets: list[Ticket], client: str) -> set[Ticket]:
    """Of which tickets one has to make room for this client, by looking at all of them."""
    queued = [ticket for ticket in tickets if ticket.state is TicketState.QUEUED]
    waiting = {ticket: {place.client for place in ticket.places} for ticket in queued}
    lengths = Counter(one for clients in waiting.values() for one in clients)
    least = lengths[client] + 2
    for length in sorted(set(lengths.values()), reverse=True):
        longest = {one for one in lengths if lengths[one] == length >= least}
        found = {t for t in queued if longest & waiting[t] and all(lengths[one] >= least for one in waiting[t])}
        if found:
            return found
    return set()


def test_the_client_with_the_longest_queue_makes_room_whatever_has_happened() -> None:
    """Against a search through all that wait, over a random story."""

    async def story() -> None:
        rng = random.Random(7)
        harness = Harness(max_in_flight=2, max_in_flight_per_host=1, queue_max=30)
        limiter = harness.limiter
        tickets: list[Ticket] = []
        places: list[Place] = []
        made_room = 0
        for _ in range(3000):
            match rng.randrange(4):
                case 0 | 1:
                    client, host = rng.choice("aaaaabbc"), rng.choice("xyz")
                    full, chosen = limiter.is_full, expected_to_make_room(tickets, client)
                    try:
                        ticket, place, _ = harness.enter(client, host)
                    except Overloaded:
                        assert full
                        assert not chosen
                        continue
                    ended = {one for one in tickets if one.state is TicketState.ENDED}
                    if full and ticket.state is TicketState.QUEUED:
                        assert len(ended) == 1
                        assert ended <= chosen
                        made_room += 1
                    else:
                        assert not ended
                    tickets.append(ticket)
                    places += [place] if place is not None else []
                case 2 if tickets:
                    ticket = rng.choice(tickets)
                    place = ticket.join(rng.choice("abcd"), Flow())
                    places += [place] if place is not None else []
                    if rng.random() < 0.5:
                        ticket.end()
                case _ if places:
                    places.pop(rng.randrange(len(places))).leave()
            tickets = [ticket for ticket in tickets if ticket.state is not TicketState.ENDED]
            queued = [ticket for ticket in tickets if ticket.state is TicketState.QUEUED]
            active = [ticket for ticket in tickets if ticket.state is TicketState.ACTIVE]
            assert (limiter.queued, limiter.in_flight) == (len(queued), len(active))
            for ticket in active:
                helps = bool(queued) and (len(active) == 2 or ticket.host in {one.host for one in queued})
                assert limiter.is_waited_for(ticket) is helps
            assert limiter.queued <= 30
        assert made_room > 100

    run(story)


def test_each_place_has_its_own_patience() -> None:
    """Of three that wait for the same fill, one may wait for 2 s, one for a minute, and one as long as all others. A
    change of the limits is for the third one alone."""

    async def story() -> None:
        now = 0.0
        limiter = OriginLimiter(Limits(max_in_flight=1, queue_timeout=10), clock=lambda: now)
        running, _ = limiter.enter("h", "a", Flow())
        usual, short, long = Flow(), Flow(), Flow()
        ticket, _ = limiter.enter("h", "a", usual)
        ticket.join("b", short, 2)
        ticket.join("c", long, 60)
        now = 3.0
        limiter.configure(limiter.limits)  # it looks at the clock
        assert [flow.ended.done() for flow in (usual, short, long)] == [False, True, False]
        assert limiter.snapshot()["oldest_wait_seconds"] == 3.0
        limiter.configure(Limits(max_in_flight=1, queue_timeout=1))
        assert [flow.ended.done() for flow in (usual, short, long)] == [True, True, False]
        now = 59.0
        limiter.configure(limiter.limits)  # it looks at the clock
        running.end()
        assert ticket.state is TicketState.ACTIVE
        assert not long.ended.done()

    run(story)


def test_whoever_is_less_patient_than_those_before_does_not_wait_for_their_timer() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_timeout=1000)
        harness.enter()
        harness.enter()
        flow = Flow()
        harness.limiter.enter("h", "b", flow, 0.02)
        assert (await flow.ended).outcome == "timeout"

    run(story)


def test_without_any_patience_it_is_a_slot_or_nothing() -> None:
    async def story() -> None:
        harness = Harness(max_in_flight=1, queue_timeout=1000)
        first, _, _ = harness.enter()
        flow = Flow()
        harness.limiter.enter("h", "b", flow, 0)
        assert (await flow.ended).outcome == "timeout"
        first.end()
        ticket, place = harness.limiter.enter("h", "b", Flow(), 0)
        assert place is None
        assert ticket.state is TicketState.ACTIVE

    run(story)


def test_a_slot_ends_with_its_outcome_and_the_time_to_the_first_byte() -> None:
    async def story() -> None:
        harness = Harness()
        ended: list[tuple[str, str, float | None]] = []
        harness.limiter.on_slot_end = lambda *told: ended.append(told)
        first, _, _ = harness.enter(host="a")
        second, _, _ = harness.enter(host="b")
        first.end("stored", 0.25)
        first.end("abandoned")  # it has ended already
        second.end("connection_refused")
        assert ended == [("a", "stored", 0.25), ("b", "connection_refused", None)]

    run(story)


def counts(limiter: OriginLimiter) -> tuple[int, int, dict[str, int]]:
    return limiter.in_flight, limiter.queued, limiter.snapshot()["queued_per_client"]


@pytest.mark.parametrize("seed", range(20))
def test_a_forecast_is_what_happens(seed: int) -> None:
    async def story() -> None:
        rng = random.Random(seed)
        harness = Harness(max_in_flight=3, max_in_flight_per_host=2, queue_max=6, queue_max_per_client=4)
        active: list[Ticket] = []
        for _ in range(200):
            client, host = rng.choice("abc"), rng.choice("hi")
            forecast = harness.limiter.forecast(host, client)
            before = counts(harness.limiter)
            assert harness.limiter.forecast(host, client) == forecast
            assert harness.limiter.forecast(host, client, 0) == ("timeout" if forecast == "queued" else forecast)
            assert counts(harness.limiter) == before
            if forecast == "rejected":
                with pytest.raises(Overloaded):
                    harness.enter(client, host)
                continue
            ticket, place, _ = harness.enter(client, host)
            assert forecast == ("admitted" if place is None else "queued")
            active.append(ticket)
            if len(active) > 4 and rng.random() < 0.4:
                active.pop(rng.randrange(len(active))).end()

    run(story)
