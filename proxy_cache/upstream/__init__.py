"""Origins: names, connections, one exchange. Directly, or through a parent proxy."""
