"""A look at the configuration and its surroundings before a start: nothing is started, changed or left behind."""
