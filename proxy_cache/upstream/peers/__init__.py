"""The other proxies of a fleet: who they are, which of them is the home of a key, and which of them answer."""
