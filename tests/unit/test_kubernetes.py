"""The manifests in ``deploy/kubernetes``: as Kubernetes wants them, and in agreement with each other, with the image,
with the options and with the documents. That a proxy starts with them is in ``tests/test_kubernetes.py``; more on the
image in ``tests/test_container.py``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
from mitmproxy.options import Options
from ruamel.yaml import YAML

from proxy_cache.mitm.options import NAMES, OPTIONS
from tests.support import manifests
from tests.support.manifests import FOLDER, VARIANTS, Object, only
from tests.support.proxy import ROOT
from tests.support.tools import need, run

OLDEST = "1.29"
"""The oldest Kubernetes that the manifests are checked for. The newest is the newest that the checker knows."""
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "m": 1 << 20, "g": 1 << 30}
DEFAULTS = {name: default for name, _, default, _ in OPTIONS}

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.stem)
each_object = pytest.mark.parametrize(
    "found",
    [
        pytest.param(one, id=f"{path.stem}-{one['kind']}")
        for path in [manifests.COMMON, *VARIANTS]
        for one in manifests.objects(path)
    ],
)


def size(text: str) -> int:
    """Bytes."""
    match = re.fullmatch(r"(\d+)([A-Za-z]+)", text)
    assert match, text
    return int(match[1]) * UNITS[match[2]]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def labels_of_pods(variant: Path) -> dict[str, str]:
    found: dict[str, str] = manifests.workload(variant)["spec"]["template"]["metadata"]["labels"]
    return found


def named_ports(variant: Path) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in manifests.container(variant)["ports"]}


def all_ports(rule: Object) -> set[tuple[str, int]]:
    return {(port["protocol"], port["port"]) for port in rule["ports"]}


def policy(variant: Path) -> Object:
    found: Object = only(manifests.applied(variant), "NetworkPolicy")["spec"]
    return found


# -- as Kubernetes wants them -----------------------------------------------------------------------------------------


def check(found: Object, version: str) -> None:
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    checker.validate(found, version or checker.latest_version(), strict=True)


@each_object
@pytest.mark.parametrize("version", [OLDEST, ""], ids=["oldest", "newest"])
def test_kubernetes_knows_every_field(found: Object, version: str) -> None:
    check(found, version)


def test_a_misspelled_field_is_found() -> None:
    found = manifests.workload(VARIANTS[0])
    found["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(Exception, match="readynessProbe"):
        check(found, OLDEST)


@each_variant
def test_kustomize_makes_the_same_of_it(variant: Path) -> None:
    """The base, and what is the variant's own."""
    found = kustomized(variant.parent)
    assert sorted(map(identity, found)) == sorted(map(identity, manifests.applied(variant)))
    assert sorted(found, key=identity) == sorted(manifests.applied(variant), key=identity)


def test_the_monitor_finds_the_metrics_port() -> None:
    """Its kind is the Prometheus operator's: no schema of Kubernetes' own has it."""
    (monitor,) = kustomized(FOLDER / "monitoring")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    for variant in VARIANTS:
        services = [one for one in manifests.applied(variant) if one["kind"] == "Service"]
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [one for one in services if matches(selector, one["metadata"].get("labels", {}))]
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def kustomized(folder: Path) -> list[Object]:
    done = run([need("kubectl"), "kustomize", str(folder)])
    assert done.returncode == 0, done.stderr.decode()
    return list(YAML(typ="safe", pure=True).load_all(done.stdout))


def identity(found: Object) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


@each_object
def test_everything_is_in_one_namespace(found: Object) -> None:
    name = found["metadata"]["name"] if found["kind"] == "Namespace" else found["metadata"]["namespace"]
    assert name == "proxy-cache"


# -- options ----------------------------------------------------------------------------------------------------------


@each_variant
def test_every_option_exists(variant: Path) -> None:
    known = NAMES | Options().keys()
    assert manifests.options(variant).keys() - known == set()
    assert manifests.config(manifests.applied(variant)).keys() - known == set()


@each_variant
def test_what_needs_a_restart_or_fits_the_pod_is_no_part_of_the_shared_file(variant: Path) -> None:
    """The command line has the last word: in the file it would be without effect."""
    assert not manifests.config(manifests.applied(variant)).keys() & manifests.options(variant).keys()


@each_variant
def test_ports_agree(variant: Path) -> None:
    options, ports = manifests.options(variant), named_ports(variant)
    (listen,), (metrics,) = options["listen_port"], options["metrics_listen"]
    address, _, metrics_port = metrics.rpartition(":")
    assert ports == {"proxy": int(listen), "metrics": int(metrics_port)}
    assert ipaddress.ip_address(address).is_unspecified, "nobody but the pod itself could ask"
    services = [one for one in manifests.applied(variant) if one["kind"] == "Service"]
    assert len(services) == 2
    for service in services:
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]], service["metadata"]["name"]
    (exposed,) = [rest.split() for word, rest in manifests.last_stage() if word == "EXPOSE"]
    assert sorted(map(int, exposed)) == sorted(ports.values())


@each_variant
def test_only_the_proxy_is_offered_to_agents(variant: Path) -> None:
    service = only(manifests.objects(variant), "Service")["spec"]
    assert [port["targetPort"] for port in service["ports"]] == ["proxy"]


@each_variant
def test_everybody_means_the_same_pods(variant: Path) -> None:
    labels, workload = labels_of_pods(variant), manifests.workload(variant)
    selectors = [workload["spec"]["selector"]["matchLabels"], policy(variant)["podSelector"]["matchLabels"]]
    for one in manifests.applied(variant):
        if one["kind"] == "Service":
            selectors.append(one["spec"]["selector"])
        if one["kind"] == "PodDisruptionBudget":
            selectors.append(one["spec"]["selector"]["matchLabels"])
    assert len(selectors) >= 4
    assert all(matches(selector, labels) for selector in selectors), selectors


# -- peers ------------------------------------------------------------------------------------------------------------


@each_variant
def test_peers_are_the_pods_of_the_headless_service(variant: Path) -> None:
    options, ports = manifests.options(variant), named_ports(variant)
    service = only(manifests.applied(variant), "Service", "proxy-cache-peers")
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"]["publishNotReadyAddresses"]
    peers = [urlsplit(peer) for peer in options["cache_peers"]]
    assert {peer.port for peer in peers} == {ports["proxy"]}
    if variant.stem == "per-node":
        assert [(peer.scheme, peer.hostname) for peer in peers] == [("dns", name)]
        assert "cache_peer_self" not in options
        return
    workload = manifests.workload(variant)
    pods = [f"{workload['metadata']['name']}-{number}" for number in range(workload["spec"]["replicas"])]
    assert workload["spec"]["serviceName"] == service["metadata"]["name"], "pods have names by this service alone"
    assert [(peer.scheme, peer.hostname) for peer in peers] == [("http", f"{pod}.{name}") for pod in pods]
    (own,) = options["cache_peer_self"]
    assert [own.replace("$(POD_NAME)", pod) for pod in pods] == options["cache_peers"]
    (variable,) = [one for one in manifests.container(variant)["env"] if one["name"] == "POD_NAME"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@each_variant
def test_the_token_is_where_the_option_says(variant: Path) -> None:
    (file,) = map(PurePosixPath, manifests.options(variant)["cache_peer_token_file"])
    mount = mounts(manifests.container(variant))[str(file.parent)]
    (volume,) = [one for one in manifests.pod(variant)["volumes"] if one["name"] == mount["name"]]
    group_may_read = volume["secret"]["defaultMode"] & 0o777
    assert group_may_read == 0o440
    assert manifests.pod(variant)["securityContext"]["fsGroup"] > 0
    made = f"create secret generic {volume['secret']['secretName']} --from-file={file.name}="
    for path in (manifests.COMMON, ROOT / "docs" / "fleet.md"):
        assert made in path.read_text(), f"{path.name} says how else the secret is made"
    assert not [one for one in manifests.applied(variant) if one["kind"] == "Secret"], "a secret for everybody is none"


# -- folders ----------------------------------------------------------------------------------------------------------


def mounts(container: Object) -> dict[str, Object]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def volumes(variant: Path) -> dict[str, Object]:
    claims = manifests.workload(variant)["spec"].get("volumeClaimTemplates", [])
    return {one["name"]: one for one in manifests.pod(variant)["volumes"]} | {
        one["metadata"]["name"]: one for one in claims
    }


def mount_of(path: PurePosixPath, container: Object) -> Object:
    return next(mounts(container)[str(folder)] for folder in (path, *path.parents) if str(folder) in mounts(container))


@each_variant
def test_what_is_written_is_on_volumes_that_can_be_written(variant: Path) -> None:
    container = manifests.container(variant)
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for option in ("confdir", "cache_dir"):
        (folder,) = map(PurePosixPath, manifests.options(variant)[option])
        mount = mount_of(folder, container)
        assert not mount.get("readOnly")
        assert {"emptyDir", "spec"} & volumes(variant)[mount["name"]].keys()


@each_variant
def test_the_cache_is_no_mount_but_a_folder_in_it(variant: Path) -> None:
    """So the proxy makes it, for its account alone (0700): a mount is root's and open to all, with a lost+found."""
    (folder,) = manifests.options(variant)["cache_dir"]
    assert folder not in mounts(manifests.container(variant))


@each_variant
def test_every_volume_that_is_mounted_exists_and_is_used(variant: Path) -> None:
    pod = manifests.pod(variant)
    used = {mount["name"] for one in (*pod["containers"], *pod["initContainers"]) for mount in one["volumeMounts"]}
    assert used == volumes(variant).keys()
    names = {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
    assert names == {only(manifests.applied(variant), "ConfigMap")["metadata"]["name"]}


@each_variant
def test_the_shared_file_is_linked_into_mitmproxys_folder(variant: Path) -> None:
    (init,) = manifests.pod(variant)["initContainers"]
    assert init["image"] == manifests.container(variant)["image"]
    *command, target, link = init["command"]
    (confdir,) = manifests.options(variant)["confdir"]
    assert command == ["ln", "-sfn"]
    assert link == f"{confdir}/config.yaml"
    mount = mount_of(PurePosixPath(target), manifests.container(variant))
    assert "subPath" not in mount
    assert volumes(variant)[mount["name"]]["configMap"]
    assert PurePosixPath(target).name in only(manifests.applied(variant), "ConfigMap")["data"]


def test_a_pod_is_not_evicted_for_its_own_cache() -> None:
    variant = VARIANTS[0]
    volume = size(volumes(variant)["data"]["emptyDir"]["sizeLimit"])
    (most,) = manifests.options(variant)["cache_max_size"]
    assert size(most) + size(DEFAULTS["spill_max"]) < volume
    assert size(manifests.container(variant)["resources"]["requests"]["ephemeral-storage"]) >= volume


@each_variant
def test_memory_is_enough_for_what_is_kept_there(variant: Path) -> None:
    limit = size(manifests.container(variant)["resources"]["limits"]["memory"])
    assert limit >= 2 * size(DEFAULTS["cache_memory"]) + (512 << 20)


# -- start and stop ---------------------------------------------------------------------------------------------------


@each_variant
def test_probes_ask_the_metrics_port(variant: Path) -> None:
    """That the paths exist is tried in ``tests/test_kubernetes.py``."""
    container = manifests.container(variant)
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {"metrics"}
    assert [probe["path"] for probe in probes.values()] == ["/readyz", "/readyz", "/healthz"]


@each_variant
def test_there_is_time_to_finish(variant: Path) -> None:
    (grace,) = map(int, manifests.options(variant)["shutdown_grace"])
    *_, seconds = manifests.container(variant)["lifecycle"]["preStop"]["exec"]["command"]
    assert manifests.pod(variant)["terminationGracePeriodSeconds"] >= int(seconds) + grace + 10


def test_no_node_is_without_a_proxy_in_an_update() -> None:
    """Agents of a node have just this one. Two at once are possible since they share neither a port nor a folder."""
    workload = manifests.workload(VARIANTS[0])
    assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert not any("hostPort" in port for port in manifests.container(VARIANTS[0])["ports"])
    assert not any("hostPath" in volume for volume in volumes(VARIANTS[0]).values())
    assert only(manifests.objects(VARIANTS[0]), "Service")["spec"]["internalTrafficPolicy"] == "Local"


# -- who may do what --------------------------------------------------------------------------------------------------


@each_variant
def test_the_pod_security_standard_restricted_is_kept(variant: Path) -> None:
    """The namespace asks for it: a pod that breaks it is not made."""
    labels = only(manifests.applied(variant), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = manifests.pod(variant)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    for one in (*pod["containers"], *pod["initContainers"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def from_whom(rule: Object) -> list[Any]:
    assert rule["from"], "an empty list is everybody"
    assert all(rule["from"])
    return list(rule["from"])


@each_variant
def test_agents_and_peers_may_ask_the_proxy_and_monitoring_the_metrics(variant: Path) -> None:
    ports, rules = named_ports(variant), policy(variant)["ingress"]
    assert set(policy(variant)["policyTypes"]) == {"Ingress", "Egress"}
    by_port = {frozenset(all_ports(rule)): from_whom(rule) for rule in rules}
    assert by_port.keys() == {frozenset({("TCP", ports["proxy"])}), frozenset({("TCP", ports["metrics"])})}
    asking = by_port[frozenset({("TCP", ports["proxy"])})]
    assert any(matches(one.get("podSelector", {}).get("matchLabels", {}), labels_of_pods(variant)) for one in asking)
    agents = [one["namespaceSelector"]["matchLabels"] for one in asking if "namespaceSelector" in one]
    ((label, value),) = agents[0].items()
    assert f"{label}={value}" in (ROOT / "docs" / "fleet.md").read_text()
    monitoring = by_port[frozenset({("TCP", ports["metrics"])})]
    assert [list(one) for one in monitoring] == [["namespaceSelector"]]


def may_reach(variant: Path) -> Iterator[tuple[Any, set[tuple[str, int]]]]:
    """Networks, and the ports there."""
    for rule in policy(variant)["egress"]:
        for one in rule["to"]:
            if "ipBlock" in one:
                yield one["ipBlock"], all_ports(rule)


@each_variant
@pytest.mark.parametrize(
    ("address", "is_reached"),
    [
        ("198.51.100.1", True),
        ("2001:db8::1", True),
        ("10.96.0.1", False),  # the API of a cluster
        ("192.168.1.1", False),
        ("172.20.0.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),  # metadata services
        ("169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("fe80::1", False),
    ],
)
def test_origins_are_reached_and_what_is_inside_is_not(variant: Path, address: str, is_reached: bool) -> None:
    ip = ipaddress.ip_address(address)
    found = set()
    for block, ports in may_reach(variant):
        network = ipaddress.ip_network(block["cidr"])
        excepted = [ipaddress.ip_network(one) for one in block["except"]]
        assert all(one.subnet_of(network) and one != network for one in excepted)  # type: ignore[arg-type]
        if ip in network and not any(ip in one for one in excepted):
            found |= ports
    assert found == ({("TCP", 80), ("TCP", 443)} if is_reached else set())


@each_variant
def test_names_are_looked_up_and_peers_are_asked(variant: Path) -> None:
    rules = policy(variant)["egress"]
    assert [all_ports(rule) for rule in rules if "namespaceSelector" in rule["to"][0]] == [{("UDP", 53), ("TCP", 53)}]
    to_peers = [rule for rule in rules if list(rule["to"][0]) == ["podSelector"]]
    assert [all_ports(rule) for rule in to_peers] == [{("TCP", named_ports(variant)["proxy"])}]
    assert matches(to_peers[0]["to"][0]["podSelector"]["matchLabels"], labels_of_pods(variant))


# -- the image --------------------------------------------------------------------------------------------------------


@each_variant
def test_the_image_runs_as_the_account_that_owns_the_volumes(variant: Path) -> None:
    (account,) = [rest for word, rest in manifests.last_stage() if word == "USER"]
    context = manifests.pod(variant)["securityContext"]
    assert account == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["fsGroup"] == context["runAsGroup"]
    assert f" {manifests.container(variant)['image']} " in manifests.CONTAINERFILE.read_text()
