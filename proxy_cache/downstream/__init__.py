"""Towards clients: which way a request goes, plain GETs on their sockets, how answers are sent and accounted for."""
