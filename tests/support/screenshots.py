"""Makes the screenshots of the status page in docs/images again: a real proxy, an origin on loopback, and clients that
ask for as long as it takes to fill the charts. `just screenshots`; needs chromium and pngquant (Debian)."""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from .chromium import chromium
from .origin import Origin, Reply
from .proxy import ROOT, Proxy

IMAGES: Final = ROOT / "docs" / "images"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 1700}
CLIENTS: Final = [f"127.0.0.{number}" for number in range(11, 17)]
SIZE_MAX: Final = 150_000
"""Bytes of an image."""


class Traffic:
    """Build agents: most of what they ask for has been asked for before."""

    def __init__(self, origin: Origin, proxy: Proxy) -> None:
        self.proxy = proxy
        self.packages = [
            origin.serve(f"/pool/main/{name}_{number}.{number % 7}-1_amd64.deb", Reply(size=30_000 * (number % 9 + 1)))
            for number in range(1, 11)
            for name in ("libssl3", "python3-yaml", "cmake", "git", "zlib1g", "curl")
        ]
        self.images = [
            origin.serve(f"/images/builder-{number}.tar.zst", Reply(size=60_000_000, rate=1_300_000 + 500_000 * number))
            for number in range(12)
        ]
        self.private = origin.serve("/api/session", Reply(headers=(("Cache-Control", "no-store"),)))
        self.broken = [origin.serve(f"/mirror/{number}", Reply(fail="reset")) for number in range(3)]
        self.is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in CLIENTS]

    def _ask(self, client: str) -> None:
        choice = random.Random(client)
        while not self.is_over.wait(choice.uniform(0.02, 0.2)):
            number = min(int(choice.expovariate(0.12)), len(self.packages) - 1)
            self.proxy.get(self.packages[number], source=client)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        for url in (self.private, *self.broken):
            self.proxy.get(url)

    def ask_for_images(self) -> None:
        for number, url in enumerate(self.images):
            for client in CLIENTS[number % 3 : 2 + number % 4]:
                self.proxy.start_get(url, source=client)

    def stop(self) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join()


def take(folder: Path, seconds: float) -> list[Path]:
    """The images, in ``folder``, of what went on for so many seconds."""
    with ExitStack() as stack:
        origin = stack.enter_context(Origin())
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxy-cache-")))
        options = {"origin_max_in_flight": 4, "origin_queue_timeout": 600, "cache_max_size": "20g"}
        proxy = stack.enter_context(
            Proxy(work, **options, cache_shared=f"file://{work}/bucket", cache_peers=["http://127.0.0.1:9"])
        )
        browser = stack.enter_context(chromium())
        traffic = Traffic(origin, proxy)
        traffic.start()
        stack.callback(traffic.stop)
        page = browser.new_page(viewport=WIDE, color_scheme="light")
        assert proxy.metrics_address is not None
        page.goto("http://{}:{}/".format(*proxy.metrics_address))
        page.wait_for_timeout(1000 * seconds / 2)
        traffic.ask_for_images()
        page.wait_for_timeout(1000 * seconds / 2)
        page.locator("#explain-url").fill(traffic.private)
        page.get_by_role("button", name="Explain").click()
        page.locator("#explanation h3").wait_for()
        made = []
        for name, scheme, size in (("light", "light", WIDE), ("dark", "dark", WIDE), ("narrow", "light", NARROW)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size(size)
            page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
            made.append(folder / f"status-page-{name}.png")
            page.screenshot(path=made[-1], full_page=size is WIDE)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90, help="of traffic before the first image")
    IMAGES.mkdir(exist_ok=True)
    for image in take(IMAGES, parser.parse_args().seconds):
        subprocess.run(["pngquant", "--force", "--strip", "--output", image, "64", image], check=True)
        size = image.stat().st_size
        print(f"{image.relative_to(ROOT)}: {size} bytes")
        assert size < SIZE_MAX, image


if __name__ == "__main__":
    main()
