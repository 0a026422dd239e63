"""Fills: one origin request for a key, whoever waits for it, and what comes of it."""
