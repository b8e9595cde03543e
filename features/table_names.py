"""The names of tables and of their key columns, from a recipe's `data` section."""

from pydantic import BaseModel, ConfigDict


class TableNames(BaseModel):
    """Columns of ids and times, and the tables' files. A model's manifest passes them from the recipe to the load.

    If a file is None, the table is looked for under its own name, as `users.parquet` or `users.csv`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: str = "user_id"
    item_id: str = "item_id"
    time_ms: str = "time_ms"
    users: str | None = None
    items: str | None = None
    behaviours: str | None = None

    def file_of(self, role: str) -> str | None:
        """Return the file of `users`, `items` or `behaviours`."""
        files = {"users": self.users, "items": self.items, "behaviours": self.behaviours}
        return files[role]
