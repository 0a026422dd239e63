"""SIGHUP: ``config.yaml``, secrets and certificates are read again, and log files that were renamed are
started anew."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from mitmproxy import ctx, exceptions

from ..app import App
from ..observe.log_files import LogFiles
from ..runtime import hangup, notify
from ..settings import Settings
from . import option_values
from .compat import RELOAD, SCRIPTS, find
from .observers import ADDON_NAME
from .option_file import OUR_DEFAULTS, OptionFile
from .trust import ForwardTrust

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.05
"""Seconds, while mitmproxy is still starting."""


class Reload:
    """Hears of the signal, and does what it means: once the proxy has started, and until it stops."""

    def __init__(self, app: App, forward_trust: ForwardTrust, forget: Callable[[], None]) -> None:
        """``forget``: called when who doesn't trust our certificates is to be found out anew."""
        self._app, self._forget = app, forget
        self._forward_trust = forward_trust
        self._file = OptionFile()
        self._logs = LogFiles()

    def load(self, options: Any) -> None:
        """Listen from now on."""
        hangup.catch()
        if RELOAD.is_on:
            self._file.started(options)
        hangup.listen(self._hung_up)

    def started(self) -> None:
        """mitmproxy has its own handlers by now."""
        hangup.quiet_wakeups()

    def stop(self) -> None:
        """Listen no more: the proxy has stopped."""
        hangup.ignore(self._hung_up)

    def quieten(self, options: Any) -> None:
        """Leave out mitmdump's own lines for flows, unless somebody has asked for them. (mitmweb has none.)"""
        if "flow_detail" in options and not (RELOAD.is_on and self._file.is_set(options, "flow_detail")):
            options.update(flow_detail=OUR_DEFAULTS["flow_detail"])

    def _hung_up(self) -> None:
        if hangup.terminal_is_gone() and not hangup.was_ignored():
            logger.info("proxy-cache: SIGHUP, and the terminal is gone: stopping")
            ctx.master.shutdown()
        elif self._app.is_draining:
            logger.info("proxy-cache: SIGHUP while stopping: nothing to do")
        elif (started := self._app.started) is None or not started.is_set() or mitmproxy_is_starting():
            # An error in the log would end the start, and what is wrong may be right before it is over.
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._hung_up)
        else:
            notify.reloading()
            try:
                self._read_all()
            finally:
                notify.ready()

    def _read_all(self) -> None:
        self._reopen()
        before = self._secrets()
        if RELOAD.is_on:
            self._read_again()
        self._read_secrets(before)
        self._renew_trust()
        self._forget()

    def _reopen(self) -> None:
        self._app.accounts.hits.flush()
        self._app.access_log.reopen()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        try:
            for name in self._logs.reopen():
                logger.info("proxy-cache: SIGHUP: log goes on in a new %s", name)
        except OSError as error:
            logger.warning(
                "proxy-cache: SIGHUP: log goes on where it was: %s: %s", error.filename or "log", error.strerror
            )

    def _read_again(self) -> None:
        try:
            logger.info("proxy-cache: SIGHUP: config.yaml read again: %s", self._file.read_again(ctx.options))
        except exceptions.OptionsError as error:
            logger.error(
                "proxy-cache: SIGHUP: config.yaml not taken, nothing changed: %s", " ".join(str(error).split())
            )
        except Exception as error:
            self._app.failed(error)

    def _secrets(self) -> dict[str, tuple[str, ...]]:
        """Those that are in use, by the options that name their files."""
        settings = self._app.settings
        return _secrets_of(settings) if settings is not None else {}

    def _read_secrets(self, before: dict[str, tuple[str, ...]]) -> None:
        """Also where config.yaml is what it was: its options name the files, and the files have others now."""
        if not any(getattr(ctx.options, name) for name in self._secrets()):
            return
        try:
            settings = option_values.parse(ctx.options)
        except exceptions.OptionsError as error:
            logger.error("proxy-cache: SIGHUP: %s; what was there before is kept", " ".join(str(error).split()))
            return
        if _secrets_of(settings) != self._secrets():
            self._app.configure(settings)
        for name, secrets in self._secrets().items():
            if secrets != before.get(name):
                logger.info("proxy-cache: SIGHUP: %s read again: it has changed", name)

    def _renew_trust(self) -> None:
        """Read the certificates that origins are verified by again, for fills and forwarded requests alike. Those
        that can't be read stay as they were."""
        if self._app.settings is None:
            return
        try:
            self._app.check_trust()
        except OSError as error:
            logger.warning("proxy-cache: SIGHUP: certificates not read again: %s", error)
            return
        self._forward_trust.renew()
        self._app.renew_trust()
        logger.info("proxy-cache: SIGHUP: certificates read again")


def _secrets_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {"cache_peer_token_file": settings.fleet.client.tokens, "admin_token_file": settings.admin.tokens}


def settle_connection_lines(options: Any) -> None:
    """mitmproxy logs two lines a connection, each shown to every addon: only for who wants mitmproxy's lines."""
    mitmproxys = not options.access_log and getattr(options, "flow_detail", 1) > 0
    is_shown = mitmproxys or getattr(options, "termlog_verbosity", "") == "debug"
    logging.getLogger("mitmproxy.proxy.server").setLevel(logging.NOTSET if is_shown else logging.WARNING)


def mitmproxy_is_starting() -> bool:
    """Whether an error in the log still ends the process."""
    check = ctx.master.addons.get("errorcheck")
    return check is not None and getattr(check, "logger", None) in logging.getLogger().handlers


def stop_watching() -> None:
    """mitmproxy looks at a script's file once a second: one that has been touched (``git pull``) is loaded again, which
    ends what the proxy is doing; one that is missing for a moment is unloaded, and the proxy goes on without its cache.
    """
    if not SCRIPTS.is_on:
        return
    traverse, loader = find("mitmproxy.addonmanager:traverse"), ctx.master.addons.get("scriptloader")
    for script in getattr(loader, "addons", ()):
        task = getattr(script, "reloadtask", None)
        if task is not None and any(getattr(one, "name", None) == ADDON_NAME for one in traverse([script])):
            task.cancel()
            script.reloadtask = None
