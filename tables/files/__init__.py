"""The files of a table: where they are, what their folders say, and how they are opened."""
