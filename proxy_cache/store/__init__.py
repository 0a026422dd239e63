"""Where responses are kept: an index in SQLite and memory, bodies in files, and the room they may take."""
