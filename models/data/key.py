"""The name of an encoded data set: a hash of the tables' content and of whatever decides how they are encoded."""

import hashlib
import json
from collections.abc import Mapping

from models.data.encoding.encoding import Encoding
from models.kinds.multiclass import MultiClass
from models.recipe import Recipe
from models.recipe.sections.data import WHERE_DATA_LIES, without_unset
from models.recipe.sections.model import NumericsSection

FORMAT = 4


def key_of(recipe: Recipe, hashes: Mapping[str, str], earlier: Encoding | None) -> str:
    """The name of the folder of this content and schema, hexadecimal."""
    data = recipe.data.model_dump(mode="json", exclude=WHERE_DATA_LIES | {"weight", "task_weights"})
    if recipe.data.request_id is None:
        del data["request_id"]  # what was encoded before the key existed stays valid
    if not recipe.data.served:
        del data["served"]  # as above
    data = without_unset(data)  # as above
    deciding = {
        "format": FORMAT,
        "tables": dict(hashes),
        "data": data,
        "features": recipe.features.model_dump(mode="json"),
        "labels": [list(recipe.label_columns), sorted(recipe.value_columns)],
        "position": None
        if recipe.position is None
        else recipe.position.model_dump(include={"column", "cross", "max_position"}),
        "min_count": recipe.model.embedding.min_count,
    }
    if recipe.model.embedding.numerics != NumericsSection():  # as above
        deciding["numerics"] = recipe.model.embedding.numerics.model_dump()
    deciding |= recipe.model.embedding.hashing  # as above
    classes = {
        column: sorted(kind.classes for kind in kinds if isinstance(kind, MultiClass))
        for column, kinds in recipe.label_kinds.items()
    }
    if any(classes.values()):  # as above; a column that was encoded as any number may hold no class
        deciding["classes"] = {column: counts for column, counts in classes.items() if counts}
    if recipe.data.weight_columns:  # as above
        deciding["weights"] = list(recipe.data.weight_columns)
    if earlier is not None:
        deciding["earlier"] = earlier.digest()
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:24]
