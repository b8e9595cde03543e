"""One HTTP connection: how requests arrive, what a connection may cost, and how answers are sent."""
