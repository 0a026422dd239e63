"""An HTTP cache test suite that isn't ours: Mark Nottingham's, from npm (see cache-tests.fyi)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy import Proxy
from tests.support.tools import free_port, need, run, run_in_background

SUITE = "http-cache-tests@0.4.5"
AGE = "an Age that is invalid is ignored, of several the first counts (RFC 9111 §5.1, which is younger than the suite)"
COOKIES = "what sets a cookie is not stored"
ERROR = "passes where it matters: there is a 502, and nothing stale. The suite takes it for a stored response"
KNOWN = {
    "304-etag-update-response-ETag": "a 304 with another ETag stands for nothing stored (§4.3.4): it is asked again",
    "304-etag-update-response-Set-Cookie": COOKIES,
    "age-parse-dup-0": AGE,
    "age-parse-dup-0-twoline": AGE,
    "age-parse-dup-old": AGE,
    "age-parse-float": AGE,
    "age-parse-negative": AGE,
    "age-parse-nonnumeric": AGE,
    "age-parse-numeric-parameter": AGE,
    "age-parse-parameter": AGE,
    "age-parse-prefix-twoline": AGE,
    "headers-store-Set-Cookie": COOKIES,
    "headers-store-Transfer-Encoding": "a transfer coding that nobody knows is a 502 (RFC 9112 §6.1)",
    "stale-close-must-revalidate": ERROR,
    "stale-close-no-cache": ERROR,
    "stale-close-proxy-revalidate": ERROR,
    "stale-close-s-maxage=2": ERROR,
}
"""What fails of what the suite says a cache must do, and why."""

# An entry for each test, and the kind of each: the suite's own program prints only the former.
KINDS = """
import suites from './tests/index.mjs'
const kinds = {}
for (const suite of suites) for (const test of suite.tests) kinds[test.id] = test.kind || 'required'
console.log(JSON.stringify(kinds))
"""


# Some of the tests, one after the other. (The suite's own program runs all at once, or prints one for human eyes.)
ALONE = """
import fetch from 'node-fetch'
import { getResults, runTests } from './client/runner.mjs'
import suites from './tests/index.mjs'
const { npm_package_config_id: ids, npm_package_config_base: base } = process.env
const wanted = suites.map(suite => ({ ...suite, tests: suite.tests.filter(test => ids.split(' ').includes(test.id)) }))
await runTests(wanted, fetch, false, base, 1)
console.log(JSON.stringify(getResults()))
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    command = [need("npm"), "install", SUITE, "--prefix", str(folder), "--cache", str(folder / "cache"), "--silent"]
    try:
        done = run([*command, "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1"], 120)
    except subprocess.TimeoutExpired:
        pytest.skip("the suite cannot be fetched: no answer from outside of this machine")
    if done.returncode != 0:
        pytest.skip(f"the suite cannot be fetched: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return folder / "node_modules" / "http-cache-tests"


def node(suite: Path, *arguments: str, **settings: str) -> list[str]:
    """The suite is configured as npm does it, by its environment."""
    return ["env", "-C", str(suite), *(f"npm_package_config_{name}={value}" for name, value in settings.items()),
            need("node"), "--no-warnings", *arguments]  # fmt: skip


def printed(command: list[str], timeout: float = 300.0) -> Any:
    done = run(command, timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
def test_what_a_cache_must_do(start_proxy: Callable[..., Proxy], suite: Path, tmp_path: Path) -> None:
    """None of the suite's required tests fails but for those that are known to, each for its reason."""
    port = free_port()
    server = node(suite, "server/server.mjs", protocol="http", port=str(port), pidfile=str(tmp_path / "pid"))
    kinds = printed(node(suite, "--input-type=module", "--eval", KINDS))
    with run_in_background(server, ("127.0.0.1", port)):
        # Responses that say nothing of freshness are expected not to be kept, and errors not to be asked for again.
        proxy = start_proxy(mode=f"reverse:http://127.0.0.1:{port}", cache_default_ttl=0, origin_retries=0)
        results = printed(node(suite, "cli.mjs", base=proxy.url, id=""))
        # The suite's tests go by the clock, and run a hundred at once: what fails so has to fail alone, too.
        failed = {name for name, result in results.items() if result is not True and kinds.get(name) == "required"}
        if unexpected := failed - KNOWN.keys():
            alone = node(suite, "--input-type=module", "--eval", ALONE, base=proxy.url, id=" ".join(unexpected))
            results |= printed(alone)
    required = {name: result for name, result in results.items() if kinds.get(name) == "required"}
    assert len(required) > 150
    wrong = {name: result for name, result in required.items() if result is not True}
    assert set(wrong) == set(KNOWN), {name: wrong.get(name, "passes") for name in set(wrong) ^ set(KNOWN)}
    assert sum(result is True for result in results.values()) > 250
    assert proxy.value("hook_errors_total") == 0
