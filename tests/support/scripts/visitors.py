"""A mitmproxy script for tests: has to hear of every connection."""

from __future__ import annotations

import logging

from mitmproxy.connection import Client


class Visitors:
    def client_connected(self, client: Client) -> None:
        logging.info("visitor %s:%d comes", *client.peername[:2])

    def client_disconnected(self, client: Client) -> None:
        logging.info("visitor %s:%d goes", *client.peername[:2])


addons = [Visitors()]
