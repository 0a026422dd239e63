"""What an operator has set is for the machine: a worker's share of it."""

from __future__ import annotations

from dataclasses import replace

from ..settings import Settings
from ..store.eviction import Quota
from ..upstream.peers.settings import FleetSettings
from .role import Role


def folder_of(index: int) -> str:
    """A worker's folder, within ``cache_dir``."""
    return f"worker-{index}"


def folder_of_any() -> str:
    """As a pattern for ``glob``."""
    return "worker-*"


def problem_with(settings: Settings) -> str:
    """Why these settings are none for several workers, in one line that names the option; empty if they are."""
    if settings.fleet.peers:
        return "cache_peers: not with --workers, which are a fleet by themselves"
    return ""


def share_of(settings: Settings, role: Role) -> Settings:
    """Everything that a worker takes on its own is divided; the limits of the origin are not, since the parent counts
    for all (:mod:`.slots`)."""
    keep = settings.fleet.keep
    return replace(
        settings,
        cache_dir=settings.cache_dir / folder_of(role.index),
        quota=_quota(settings.quota, role),
        memory=_part(settings.memory, role),
        verify_rate=_part(settings.verify_rate, role),
        spill_max=_part(settings.spill_max, role),
        # Where all copies are on one disk, each beyond the first one has to be worth its room.
        fleet=FleetSettings(
            keep="never" if keep == "never" else "hot",
            client=replace(settings.fleet.client, tokens=(role.token,), greeting=role.greeting),
        ),
        metrics_listen=(str(role.admin_socket), 0),
    )


def _quota(quota: Quota, role: Role) -> Quota:
    max_size, max_object = quota.max_size, quota.max_object
    return replace(
        quota,
        max_size=_part(max_size, role) if isinstance(max_size, int) else max_size / role.count,
        # An object is in one worker's folder: what it may take is a share of all.
        max_object=max_object if isinstance(max_object, int) else min(1.0, max_object * role.count),
        users=role.count,
    )


def _part(whole: int, role: Role) -> int:
    """So that all parts make exactly the whole."""
    return whole // role.count + (role.index < whole % role.count)
