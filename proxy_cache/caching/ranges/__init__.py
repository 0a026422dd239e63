"""What of a body a request asks for, and readers of entries that are stored in part."""
