"""Peers: who they are, who of them is a key's home, how they are asked."""
