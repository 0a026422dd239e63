"""What operators see: metrics and their port, the access log."""
