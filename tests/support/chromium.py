"""A real Chromium (Debian's), without a window, that reaches nothing but loopback; and what went wrong in its pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from .origin import PATIENCE

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--proxy-server=direct://",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
)
expect.set_options(timeout=PATIENCE * 1000)
VIOLATIONS = "document.addEventListener('securitypolicyviolation', (at) => console.error(`CSP: ${at.blockedURI}`))"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, until the block ends. It needs no driver of its own: it is spoken to over a pipe."""
    assert CHROMIUM is not None
    # As root, which the tests of a container are run as, it has no sandbox of its own.
    arguments = [*ARGUMENTS, "--no-sandbox"] if os.geteuid() == 0 else [*ARGUMENTS]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and whatever it complained of: errors on the console, exceptions, violations of its policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.add_init_script(VIOLATIONS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or critical: the rule, and where it is broken."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {[node['target'] for node in one['nodes']]}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]
