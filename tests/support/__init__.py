"""What the scenario tests are made of: a real mitmdump, an origin that does as it is told, and agents that use both."""
