"""Packs behaviours into rows: the item's own features, the action, the scene and the time."""

import numpy as np

from features.keys import keys_of_column
from features.packing.rows import RowLayout
from features.schemas.schema import FeatureSchema


class BehaviourLayout(RowLayout):
    """The layout of one behaviour in a packed row: the item's features, the action, the scene, the time.

    `dtype` has `keys` int64 `[K + 2]`, `time` int64 (milliseconds since 1970, 0 if unknown) and `numerics` float32.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        if schema.behaviour is None:
            raise ValueError("this schema has no behaviour sequence")
        super().__init__(schema.behaviour_item_features, times=True)
        self._behaviour = schema.behaviour
        self._item = RowLayout(schema.item)
        keys = np.arange(self._item.key_width)
        picked = [keys[self._item.key_columns[n]] for n in self.key_columns]
        self._item_keys = np.concatenate(picked) if picked else np.zeros(0, dtype=np.int64)
        self._item_numerics = self._item.number_columns(feature.name for feature in self.features)
        self.item_key_width = self.key_width
        self.key_width += 2
        widened = [
            ("keys", "<i8", (self.key_width,)),
            *[(n, self.dtype[n]) for n in self.dtype.names or () if n != "keys"],
        ]
        self.dtype = np.dtype(widened)

    def of_items(self, item_rows: np.ndarray, actions: np.ndarray, scenes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Pack behaviour rows `[n]` from packed item rows, raw actions and scenes, and times in milliseconds, `[n]`
        each.
        """
        rows = self.empty(len(item_rows))
        rows["keys"][:, : self.item_key_width] = item_rows["keys"][:, self._item_keys]
        rows["keys"][:, self.item_key_width] = keys_of_column(self._behaviour.action_vocabulary, actions, "action")
        rows["keys"][:, self.item_key_width + 1] = keys_of_column(self._behaviour.scene_vocabulary, scenes, "scene")
        rows["numerics"] = item_rows["numerics"][:, self._item_numerics]
        rows["time"] = times
        return rows

    def pack_event(self, item_row: bytes, action: object, scene: object, time_ms: int) -> bytes:
        """Pack one behaviour, with the same result as `of_items`."""
        rows = self._item.rows(item_row)
        return self.of_items(
            rows, np.array([action], dtype=object), np.array([scene], dtype=object), np.array([time_ms], dtype=np.int64)
        ).tobytes()
