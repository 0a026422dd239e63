"""HTTP/1 as bytes: heads, chunks, and checks of them. No socket, no clock."""
