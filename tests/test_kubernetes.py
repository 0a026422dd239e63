"""A mitmdump with the very arguments of the manifests in ``deploy/kubernetes``, as a pod would have it: its ports, its
names in the DNS, its ConfigMap as the kubelet lays it out, and a root file system that can't be written."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import manifests, read_only
from tests.support.dns_server import DnsServer
from tests.support.looks import files_below
from tests.support.manifests import VARIANTS, only
from tests.support.origin import Origin, Reply
from tests.support.own_network import add_address, in_own_network
from tests.support.proxy import ROOT, Proxy
from tests.support.tools import run

OWN, OTHER = "10.9.0.1", "10.9.0.2"
POD = "proxy-cache-0"
PEERS = "proxy-cache-peers.proxy-cache.svc"


class PodProxy(Proxy):
    """The pod's container, with volumes in ``folder``."""

    def __init__(self, folder: Path, variant: Path) -> None:
        super().__init__(folder, execute=True, environment={"PYTHONPATH": str(ROOT)})
        self._variant = variant
        self.options["metrics_listen"] = "as in the manifest"
        self.config = folder / "etc" / "config"
        for one in ("var/data", "var/mitmproxy", "etc/config", "etc/secret"):
            (folder / one).mkdir(parents=True)
        (folder / "etc" / "secret" / "token").write_text("0123456789abcdef0123456789abcdef\n")
        self.give_config(only(manifests.applied(variant), "ConfigMap")["data"])
        (init,) = manifests.pod(variant)["initContainers"]
        for _ in range(2):  # also when the pod's sandbox is made anew
            done = run([self.moved(word) for word in init["command"]])
            assert done.returncode == 0, done.stderr

    def moved(self, text: str) -> str:
        for old, new in (("/var/lib/proxy-cache", "var"), ("/etc/proxy-cache", "etc")):
            text = text.replace(old, str(self.folder / new))
        return text

    def give_config(self, data: dict[str, str]) -> None:
        """As the kubelet does: a new folder, and one link that changes."""
        number = len(list(self.config.iterdir()))
        new = self.config / f"..{number}"
        new.mkdir()
        for name, text in data.items():
            (new / name).write_text(text)
            if not (self.config / name).is_symlink():
                (self.config / name).symlink_to(f"..data/{name}")
        (self.config / "..data_tmp").symlink_to(new.name)
        (self.config / "..data_tmp").rename(self.config / "..data")

    def command(self) -> list[str]:
        (program, *first), container = manifests.entrypoint(), manifests.container(self._variant)
        assert program == "proxy-cache"
        arguments = [self.moved(word).replace("$(POD_NAME)", POD) for word in container["args"]]
        # The disk of whoever runs this may be smaller than a node's.
        arguments = ["--set=cache_min_free=1m" if "=cache_min_free=" in word else word for word in arguments]
        arguments.append("--set=access_destinations=allow 127.0.0.0/8")  # where the origin is
        return [*read_only.all_but(self.folder), sys.executable, "-m", "proxy_cache.cli", *first, *arguments]

    def start(self) -> Self:
        super().start()
        assert self.agents is not None
        self.address = self.agents.proxy = ("127.0.0.1", self.address[1])
        return self


def names() -> dict[str, list[str]]:
    """As the headless Service has them: this pod, and one that can't be reached. A third of a StatefulSet is not ready
    yet, and has no name."""
    return {PEERS: [OWN, OTHER], f"{POD}.{PEERS}": [OWN], f"proxy-cache-1.{PEERS}": [OTHER]}


def probe_paths(container: dict[str, Any]) -> set[str]:
    return {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}


def config_with(limit: int) -> str:
    text: str = only(manifests.objects(manifests.COMMON), "ConfigMap")["data"]["config.yaml"]
    assert "origin_max_in_flight: 0\n" in text
    return text.replace("origin_max_in_flight: 0\n", f"origin_max_in_flight: {limit}\n")


@in_own_network
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.stem)
def test_a_pod_starts_finds_itself_among_its_peers_caches_and_stops(variant: Path, tmp_path: Path) -> None:
    add_address(OWN)
    container = manifests.container(variant)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    peer_count = {"per-node": 2, "per-site": 3}[variant.stem]
    with DnsServer() as server, Origin() as origin:
        server.records.update(names())
        with PodProxy(tmp_path, variant) as proxy:
            assert proxy.metrics_address is not None
            assert (proxy.address[1], proxy.metrics_address[1]) == (ports["proxy"], ports["metrics"])
            for path in probe_paths(container):
                assert proxy.admin(path)[0] == 200, path
            own = proxy.wait_for_log(rf"{peer_count} peers, this proxy is (\S+?);?(?: |$)")[1]
            assert own == f"http://{OWN if variant.stem == 'per-node' else f'{POD}.{PEERS}'}:{ports['proxy']}"

            for number in range(4):  # some of them have their home on a pod that can't be reached
                url = origin.serve(f"/{number}", Reply(size=10_000))
                assert proxy.get(url, expect=10_000).ok
                assert proxy.get(url, expect=10_000).hit

            proxy.give_config({"config.yaml": config_with(7)})
            proxy.signal(signal.SIGHUP)
            assert "origin_max_in_flight from 0 to 7" in proxy.wait_for_log(r"config.yaml read again: (.*)")[1]

            proxy.signal(signal.SIGTERM)
            assert proxy.wait() == 0
            assert not [line for line in proxy.log if re.search(r"\b(Error|ERROR|refused|not taken)\b", line)]
        assert files_below(tmp_path / "var" / "data")
        assert (tmp_path / "var" / "mitmproxy" / "mitmproxy-ca.pem").exists()
