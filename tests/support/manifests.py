"""What ``deploy/`` says: the manifests for Kubernetes as they are read there, and the
image's Containerfile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .proxy import ROOT

DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "kubernetes"
COMMON = FOLDER / "base" / "common.yaml"
VARIANTS = [FOLDER / name / f"{name}.yaml" for name in ("per-node", "per-site")]
"""One of them is applied, with the common one."""
CONTAINERFILE = ROOT / "Containerfile"

Object = dict[str, Any]


def objects(path: Path) -> list[Object]:
    return list(YAML(typ="safe", pure=True).load_all(path))


def applied(variant: Path) -> list[Object]:
    """All that a cluster has of it."""
    return [*objects(COMMON), *objects(variant)]


def only(found: list[Object], kind: str, name: str | None = None) -> Object:
    (one,) = [one for one in found if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return one


def workload(variant: Path) -> Object:
    """The DaemonSet or StatefulSet."""
    (one,) = [one for one in objects(variant) if "template" in one["spec"]]
    return one


def pod(variant: Path) -> Object:
    found: Object = workload(variant)["spec"]["template"]["spec"]
    return found


def container(variant: Path) -> Object:
    (one,) = pod(variant)["containers"]
    found: Object = one
    return found


def options(variant: Path) -> dict[str, list[str]]:
    """What the arguments set, by option; ``--listen-port`` among them."""
    found: dict[str, list[str]] = {}
    for argument in container(variant)["args"]:
        match = re.fullmatch(r"--set=(\w+)=(.*)|--(listen-port)=(\d+)", argument)
        assert match, f"{argument!r} is not of a form that this test understands"
        name, value = (match[1], match[2]) if match[1] else (match[3].replace("-", "_"), match[4])
        found.setdefault(name, []).append(value)
    return found


def config(found: list[Object]) -> dict[str, Any]:
    """``config.yaml`` in the ConfigMap."""
    values = YAML(typ="safe", pure=True).load(only(found, "ConfigMap")["data"]["config.yaml"])
    assert isinstance(values, dict)
    return values


def containerfile() -> list[tuple[str, str]]:
    """Its instructions: the word, and the rest of the line, in which continued lines are joined."""
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def last_stage() -> list[tuple[str, str]]:
    """What the image is made of, after what it was built with."""
    found = containerfile()
    return found[max(number for number, (word, _) in enumerate(found) if word == "FROM") :]


def entrypoint() -> list[str]:
    (text,) = [rest for word, rest in last_stage() if word == "ENTRYPOINT"]
    found: list[str] = json.loads(text)
    return found


def healthcheck() -> list[str]:
    (text,) = [rest for word, rest in last_stage() if word == "HEALTHCHECK"]
    found: list[str] = json.loads(text.partition(" CMD ")[2])
    return found
