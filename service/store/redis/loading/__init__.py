"""The bulk load of tables into Redis, and the schemas that Redis has rows of."""
