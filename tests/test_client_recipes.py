"""The recipes of docs/clients.md, as they stand there: each is run by two new agents, one after the other, against a
small repository on this machine, and the second has from the cache what the document promises.

All recipes of one client share a proxy, since each of them begins with agents and URLs that it knows nothing of, or has
the same from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client_stage import Stage, second_run
from tests.support.origin import Gate, Origin, Reply
from tests.support.recipes import Recipe, by_client, recipes, tries

CLIENTS = by_client()
REFUSED = tries()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", CLIENTS)
def test_the_second_agent_has_it_from_the_cache(client: str, tmp_path: Path) -> None:
    with Stage(tmp_path, CLIENTS[client]) as stage:
        for recipe in stage.recipes:
            hits, asked, told = second_run(stage, recipe)
            assert (hits, len(asked)) == (recipe.hits, recipe.asked), f"{recipe}: {told}"


def test_a_recipe_says_what_comes_of_it() -> None:
    """Or nobody could tell whether it works: neither a reader nor the tests."""
    start = "```sh proxy\n.venv/bin/mitmdump -s addons/cache.py --mode regular\n```\n"
    run = "```sh agent file\ntool fetch\n```\n"
    told = "Second run: 2 hits, no requests to the origin.\n"
    file = "```ini ~/.tool\nproxy = http://cache.example:8080\n```\n"
    (recipe,) = recipes(f"## Tool\n{start}In `~/.tool`:\n{file}{run}{told}")
    assert (str(recipe), recipe.hits, recipe.asked, recipe.proxy) == ("tool-file", 2, 0, ("--mode", "regular"))
    assert [name for name, _ in recipe.files] == ["~/.tool"]
    with pytest.raises(ValueError, match="second run"):
        recipes(f"## Tool\n{start}{run}")
    with pytest.raises(ValueError, match=r"~/\.tool"):
        recipes(f"## Tool\n{start}{file}{run}{told}")
    with pytest.raises(ValueError, match="start the proxy"):
        recipes(f"## Tool\n```sh proxy\nmitmdump\n```\n{run}{told}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "recipe", [one for all_of in CLIENTS.values() for one in all_of if str(one) in REFUSED], ids=str
)
def test_a_client_that_is_told_503_comes_again_or_not(recipe: Recipe, origin: Origin, tmp_path: Path) -> None:
    """The first request gets no slot; whoever asks again finds one free. That is what the document's table says."""
    gate = Gate()
    with Stage(tmp_path, [recipe], origin_max_in_flight=1, origin_queue_timeout=0, origin_timeout=250) as stage:
        held = stage.proxy.start_get(origin.serve("/held", Reply(gate=gate)))
        origin.wait_for("/held")
        with stage.agent(recipe).start() as running:
            stage.proxy.wait_for_metric(
                "origin_fetch_queue_wait_seconds_count", lambda count: count > 0, outcome="timeout"
            )
            gate.open()
            assert held.result().ok
            status, printed = running.end()
    assert (status == 0) == (REFUSED[str(recipe)] > 1), printed
