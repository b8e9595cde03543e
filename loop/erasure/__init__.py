"""Erases what is known of a user, in Redis, the log and the joined tables, and searches for what is left."""
