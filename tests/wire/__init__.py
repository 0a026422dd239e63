"""HTTP/1 as bytes: fed in, without a socket."""
