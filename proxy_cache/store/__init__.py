"""Stored responses: an index in SQLite and memory, bodies in files, eviction."""
