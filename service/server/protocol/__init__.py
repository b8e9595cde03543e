"""One HTTP connection: how requests arrive on it, what it may cost, and how its answers leave."""
