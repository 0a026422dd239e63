"""Towards clients: plain GETs on their sockets, and how bodies are sent."""
