"""The feature store: its protocol, the item cache, and Redis behind it."""
