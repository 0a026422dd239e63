"""HTTP/1 as bytes: heads, chunks, and the checks on them. No socket and no clock."""
