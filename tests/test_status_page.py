"""The status page, in a real browser, on a real proxy with real traffic."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from proxy_cache.admin.events import LISTENERS_MAX
from tests.support.chromium import CHROMIUM, Watched, chromium, serious
from tests.support.origin import PATIENCE, Gate, Origin, Reply
from tests.support.proxy import Proxy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian's package chromium)")

TOKEN = "a-token-for-the-status-page"
EVIL = "<img/src=x/onerror=window.pwned=1>"
WIDE, NARROW = (1280, 900), (400, 800)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


Open = Callable[..., Watched]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page of a proxy. What it complains of fails the test, but for what is ``expected``."""
    opened: list[tuple[Watched, str]] = []

    def go(proxy: Proxy, expected: str = "", size: tuple[int, int] = WIDE, **options: Any) -> Watched:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        watched = Watched(context.new_page())
        opened.append((watched, expected))
        watched.page.goto(url_of(proxy))
        return watched

    yield go
    for watched, _ in opened:
        watched.page.context.close()
    for watched, expected in opened:
        assert [error for error in watched.errors if not (expected and re.search(expected, error))] == []
        origin = re.match("http://[^/]+/", watched.page.url)
        assert origin is not None
        assert [url for url in watched.requests if not url.startswith(origin[0])] == []


def url_of(proxy: Proxy) -> str:
    assert proxy.metrics_address is not None
    host, port = proxy.metrics_address
    return f"http://{host}:{port}/"


def is_live(watched: Watched, state: str = "Live") -> None:
    expect(watched.page.locator("#state")).to_contain_text(state)


def shows(watched: Watched, selector: str, text: str | re.Pattern[str]) -> None:
    """The element comes to have this text, and no other."""
    expect(watched.page.locator(selector)).to_have_text(text)


def rows(watched: Watched, table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row.locator("th, td").all_inner_texts()]
        for row in watched.page.locator(f"#{table} tbody tr").all()
    ]


def listen(proxy: Proxy) -> socket.socket | None:
    """A listener of the events; ``None`` if there are too many."""
    assert proxy.metrics_address is not None
    connection = socket.create_connection(proxy.metrics_address, timeout=PATIENCE)
    connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    if connection.recv(12) == b"HTTP/1.1 200":
        return connection
    connection.close()
    return None


@contextmanager
def as_many_as_may(proxy: Proxy) -> Iterator[None]:
    """All places for listeners are taken. That of an earlier one is free when it is missed."""
    with ExitStack() as stack:
        for _ in range(LISTENERS_MAX):
            stack.enter_context(proxy.eventually(lambda: listen(proxy), told="a place for a listener"))
        yield


# -- numbers -------------------------------------------------------------------------------------------------------


def test_the_numbers_move_under_load(start_proxy: Callable[..., Proxy], origin: Origin, open_page: Open) -> None:
    proxy = start_proxy(origin_max_in_flight=2, origin_queue_timeout=60)
    watched = open_page(proxy)
    is_live(watched)
    shows(watched, "#hit-ratio", "–")
    expect(watched.page.locator("#fills ~ .empty")).to_be_visible()

    popular = origin.serve("/pool/popular.deb", Reply(size=20_000))
    for _ in range(4):
        assert proxy.get(popular).ok
    shows(watched, "#hit-ratio", "75.0 %")
    shows(watched, "#saved", "58.6 KiB")
    shows(watched, "#stored-more", "1 entry")
    shows(watched, "#keys tbody tr", re.compile(rf"{re.escape(popular)}\s*3\s*19\.5.KiB"))
    shows(watched, "#hosts tbody th", origin.netloc)

    gate = Gate()
    large = origin.serve("/large.tar", Reply(size=100_000, body_gate=gate, gate_at=50_000))
    fetches = [proxy.start_get(large, source="127.0.0.5")]
    fetches[0].received(50_000)
    fetches.append(proxy.start_get(large, source="127.0.0.6"))
    for number in range(3):
        url = origin.serve(f"/other/{number}", Reply(size=1000, gate=gate))
        fetches.append(proxy.start_get(url, source="127.0.0.7"))
    shows(watched, "#slots", "2 of 2")
    shows(watched, "#queued", "2")
    shows(watched, "#fills-count", "4")
    fill = watched.page.locator("#fills tr", has_text="/large.tar")
    expect(fill).to_contain_text("48.8 KiB of 97.7 KiB")
    expect(fill.locator("progress")).to_have_js_property("value", 50_000)
    expect(fill.locator("td").nth(1)).to_have_text("2")  # waiters
    assert rows(watched, "clients") == [["127.0.0.7", "2", "1"], ["127.0.0.5", "0", "1"]]
    line = watched.page.locator("#chart-queue .line-1")
    expect(line).to_have_attribute("d", re.compile(r"^M.*L"))
    expect(watched.page.locator("#chart-queue svg")).to_have_accessible_name(re.compile("queued 2, at most 2"))

    gate.open()
    for fetch in fetches:
        assert fetch.result(PATIENCE).ok
    shows(watched, "#slots", "0 of 2")
    shows(watched, "#fills-count", "0")
    expect(watched.page.locator("#clients ~ .empty")).to_be_visible()
    shows(watched, "#stored-more", "5 entries")


def test_errors_are_shown_by_kind(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    proxy.get(origin.serve("/first", Reply(fail="reset")))
    proxy.settled()
    watched = open_page(proxy)
    is_live(watched)
    row = watched.page.locator("#errors tbody tr")
    expect(row).to_have_count(1)
    expect(row.locator("td").nth(0)).to_have_text("1")
    expect(row.locator("td").nth(1)).to_have_text("0")
    proxy.get(origin.serve("/second", Reply(fail="reset")))
    expect(row.locator("td").nth(0)).to_have_text("2")
    expect(row.locator("td").nth(1)).to_have_text("1")


def test_what_is_intercepted_is_shown_if_anything_is(start_proxy: Callable[..., Proxy], open_page: Open) -> None:
    proxy = start_proxy(intercept_hosts=["secure.example"], control=True)
    watched = open_page(proxy)
    is_live(watched)
    facts = watched.page.locator("#interception dd")
    expect(facts).to_have_text(["secure.example", "none yet", re.compile(r"\d"), "none"])
    assert proxy.set_option("intercept_hosts") == "ok"
    expect(watched.page.locator("#interception")).to_be_hidden()


# -- the stream ----------------------------------------------------------------------------------------------------


def test_paused_it_costs_nothing(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    watched = open_page(proxy, expected="503")  # should the places of the others not be free yet at the end
    is_live(watched)
    watched.page.get_by_role("button", name="Pause updates").click()
    is_live(watched, "Paused")
    entries = watched.page.locator("#stored-more").inner_text()
    with as_many_as_may(proxy):
        pass  # its place is free
    assert proxy.get(origin.url("/while-it-is-paused")).ok
    proxy.wait_until_idle()
    assert watched.page.locator("#stored-more").inner_text() == entries
    watched.page.get_by_role("button", name="Pause updates").click()
    expect(watched.page.locator("#stored-more")).not_to_have_text(entries)
    is_live(watched)


def test_where_too_many_listen_it_asks_now_and_then(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    with as_many_as_may(proxy):
        watched = open_page(proxy, expected="503")
        is_live(watched, "updated every few seconds")
        expect(watched.page.locator("#stored-more")).to_contain_text("entr")
    is_live(watched)


def test_it_tells_when_the_proxy_stops(start_proxy: Callable[..., Proxy], origin: Origin, open_page: Open) -> None:
    proxy = start_proxy(shutdown_grace=60)
    watched = open_page(proxy, expected="net::ERR_")
    is_live(watched)
    gate = Gate()
    fetch = proxy.start_get(origin.serve("/slow", Reply(size=2000, body_gate=gate, gate_at=1000)))
    fetch.received(1000)
    proxy.signal(15)
    is_live(watched, "not ready")
    gate.open()
    assert fetch.result(PATIENCE).ok
    # The stream, which has no end of its own, holds up nothing.
    assert proxy.wait() == 0
    is_live(watched, "No connection")


# -- what is clicked -----------------------------------------------------------------------------------------------


def test_explain_says_what_a_request_would_get(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    url = origin.serve("/explained", Reply(headers=(("Cache-Control", "max-age=600"), ("Vary", "Accept-Language"))))
    assert proxy.get(url, headers=(("Accept-Language", "de"),)).ok
    proxy.wait_until_idle()
    watched = open_page(proxy)
    page = watched.page
    page.locator("#explain-url").fill(url)
    page.get_by_label("Request headers").fill("Accept-Language: de")
    page.get_by_role("button", name="Explain").click()
    shows(watched, "#explanation h3", "Verdict: hit")
    variant = page.locator("#explanation tbody tr")
    expect(variant).to_contain_text("accept-language: de (this request's)")
    expect(variant).to_contain_text("RFC 9111")
    page.get_by_label("Request headers").fill("Accept-Language: fr")
    page.get_by_role("button", name="Explain").click()
    shows(watched, "#explanation h3", "Verdict: miss")
    expect(variant).not_to_contain_text("(this request's)")


def test_a_url_of_the_list_is_explained_by_a_click(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    url = origin.serve("/popular", Reply())
    for _ in range(50):
        assert proxy.get(url).ok
    watched = open_page(proxy)
    watched.page.get_by_role("button", name=url).click()
    shows(watched, "#explanation h3", "Verdict: hit")
    expect(watched.page.locator("#explain-url")).to_have_value(url)


def test_explain_shows_what_is_wrong_with_a_question(proxy: Proxy, open_page: Open) -> None:
    watched = open_page(proxy, expected="status of 400")
    watched.page.locator("#explain-url").fill("no url")
    watched.page.locator("#explain-url").press("Enter")
    expect(watched.page.locator("#explanation .error")).to_contain_text("400: ")


def purge(watched: Watched, by: str, value: str, token: str, *, soft: bool = False) -> None:
    page = watched.page
    page.get_by_label("What").select_option(by)
    if value:
        page.locator("#purge-value").fill(value)
    page.get_by_label("Soft").set_checked(soft)
    page.get_by_label("Token").fill(token)
    page.locator("#purge button").click()


def test_purging_needs_the_token(
    start_proxy: Callable[..., Proxy], origin: Origin, open_page: Open, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    proxy = start_proxy(admin_token_file=tmp_path / "token")
    url, other = origin.url("/purged"), origin.url("/kept")
    for one in (url, other):
        assert proxy.get(one).ok
    proxy.wait_until_idle()
    watched = open_page(proxy, expected="status of 401")
    page = watched.page
    shows(watched, "#stored-more", "2 entries")

    purge(watched, "url", url, "another-token-than-the-right-one")
    expect(page.locator("#purged .error")).to_contain_text("401: ")
    assert proxy.get(url).ok
    assert origin.count("/purged") == 1

    purge(watched, "url", url, TOKEN, soft=True)
    expect(page.locator("#purged")).to_contain_text("1 entry")
    expect(page.locator("#purged")).to_contain_text("made stale")
    purge(watched, "url", url, TOKEN)
    expect(page.locator("#purged")).to_contain_text("purged.")
    shows(watched, "#stored-more", "1 entry")
    assert proxy.get(url).ok
    assert origin.count("/purged") == 2
    assert proxy.get(other).ok
    assert origin.count("/kept") == 1
    proxy.wait_until_idle()
    shows(watched, "#stored-more", "2 entries")

    # Everything goes only if that is said twice.
    page.evaluate("document.getElementById('purged').replaceChildren()")
    purge(watched, "all", "", TOKEN)
    expect(page.locator("#purge-sure")).to_be_focused()
    page.keyboard.press("Space")
    page.locator("#purge button").click()
    expect(page.locator("#purged")).to_contain_text("2 entries")
    shows(watched, "#stored-more", "0 entries")

    assert TOKEN not in page.url
    assert page.evaluate("Object.values({...localStorage, ...sessionStorage}).join() + document.cookie") == ""
    page.reload()
    expect(page.locator("#purge-token")).to_have_value("")


def test_without_a_token_it_says_which_option_it_needs(proxy: Proxy, open_page: Open) -> None:
    watched = open_page(proxy, expected="status of 403")
    purge(watched, "host", "packages.example", TOKEN)
    expect(watched.page.locator("#purged .error")).to_contain_text("admin_token_file")


def test_the_theme_is_chosen_and_kept(proxy: Proxy, open_page: Open) -> None:
    watched = open_page(proxy, color_scheme="light")
    page = watched.page
    button = page.get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", "false")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


# -- whoever looks at it -------------------------------------------------------------------------------------------


def test_it_can_be_read_by_everybody(
    start_proxy: Callable[..., Proxy], origin: Origin, open_page: Open, tmp_path: Path
) -> None:
    proxy = start_proxy(
        cache_peers=["http://127.0.0.1:9", "http://127.0.0.2:9"], cache_shared=f"file://{tmp_path}/bucket"
    )
    gate = Gate()
    url = origin.url("/a-long-name/" + "0123456789abcdef" * 20)
    for _ in range(2):
        assert proxy.get(url).ok
    slow = proxy.start_get(origin.serve("/slow/" + "x" * 300, Reply(size=2000, body_gate=gate, gate_at=1000)))
    slow.received(1000)
    watched = open_page(proxy, color_scheme="light", reduced_motion="reduce")
    page = watched.page
    is_live(watched)
    expect(page.locator("#fills tbody tr").first).to_contain_text("1000 B of 1.95 KiB")
    expect(page.locator("#keys tbody tr")).to_have_count(1)
    expect(page.locator("#peers tbody tr")).to_have_count(2)
    expect(page.locator("#shared")).to_contain_text("ok")
    page.locator("#explain-url").fill(url)
    page.locator("#explain-url").press("Enter")
    shows(watched, "#explanation h3", "Verdict: hit")
    assert serious(page) == []
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
    assert serious(page) == []
    # Nothing is wider than the window, nor moves.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.getAnimations().length") == 0
    gate.open()
    assert slow.result(PATIENCE).ok


def test_everything_is_reached_by_keys(proxy: Proxy, origin: Origin, open_page: Open) -> None:
    url = origin.url("/by-keys")
    for _ in range(2):
        assert proxy.get(url).ok
    watched = open_page(proxy)
    is_live(watched)
    page = watched.page
    reached = []
    while True:
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
                const at = document.activeElement, box = at.getBoundingClientRect(), style = getComputedStyle(at);
                return {
                    name: at.id || at.textContent.trim(), isBody: at === document.body,
                    isSeen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
                    outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
                };
            }"""
        )
        if focused["isBody"] or focused["name"] in reached:
            break
        assert focused["isSeen"], focused
        assert focused["outline"] >= 2, focused
        reached.append(focused["name"])
    assert reached[:3] == ["Skip to content", "pause", "theme"]
    assert {"explain-url", "explain-headers", "Explain"} <= set(reached)
    assert {"purge-by", "purge-value", "purge-soft", "purge-token", "Purge"} <= set(reached)

    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    while page.evaluate("document.activeElement.id") != "explain-url":
        page.keyboard.press("Tab")
    page.keyboard.type(url)
    page.keyboard.press("Enter")
    shows(watched, "#explanation h3", "Verdict: hit")
    expect(page.locator("#explanation")).to_have_attribute("role", "status")  # it is read out


# -- hostile texts -------------------------------------------------------------------------------------------------


def test_texts_of_strangers_stay_texts(start_proxy: Callable[..., Proxy], origin: Origin, open_page: Open) -> None:
    proxy = start_proxy(proxyauth="any", origin_max_in_flight=1, origin_queue_timeout=60)
    credentials = base64.b64encode(f"{EVIL}:x".encode()).decode()
    fields = (("Proxy-Authorization", f"Basic {credentials}"), ("X-Kind", EVIL))
    stored = origin.serve(f"/{EVIL}", Reply(headers=(("Cache-Control", "max-age=600"), ("Vary", "X-Kind"))))
    for _ in range(2):
        assert proxy.get(stored, headers=fields).ok
    gate = Gate()
    slow = origin.serve(f"/slow/{EVIL}", Reply(size=2000, body_gate=gate, gate_at=1000))
    fetch = proxy.start_get(slow, headers=fields)
    fetch.received(1000)
    watched = open_page(proxy)
    is_live(watched)
    page = watched.page
    expect(page.locator("#fills tbody tr")).to_contain_text(f"/slow/{EVIL}")
    expect(page.locator("#fills tbody tr")).to_contain_text(f"for {EVIL}")
    shows(watched, "#clients tbody th", EVIL)
    page.locator("#keys button", has_text=f"/{EVIL}").click()
    expect(page.locator("#explain-url")).to_have_value(stored)
    page.locator("#explain-headers").fill(f"X-Kind: {EVIL}")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#explanation tbody tr")).to_contain_text(EVIL)
    assert page.locator("img").count() == 0
    assert page.evaluate("window.pwned") is None
    gate.open()
    assert fetch.result(PATIENCE).ok


def test_the_policy_stops_what_should_ever_slip_through(proxy: Proxy, open_page: Open) -> None:
    watched = open_page(proxy, expected="CSP: |Content Security Policy|Trusted(HTML|Script)|script-element")
    page = watched.page
    is_live(watched)
    parse = "(text) => { try { document.body.innerHTML = text; } catch (error) { return error.name; } }"
    assert page.evaluate(parse, EVIL) == "TypeError"
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.append('window.pwned = 1');
        document.body.append(script);
    }""")
    assert page.evaluate("window.pwned") is None
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
    watched.requests.clear()
