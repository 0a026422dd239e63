"""For operators: metrics and their port, the access log."""
