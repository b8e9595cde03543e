"""Fixtures of a Redis with rows of two feature schemas."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from features import FeatureSchema
from features.layouts import Layouts
from service.store.redis.loading.schemas import announce_schema, register_schema


@pytest.fixture(scope="module")
def next_layouts(kit: SimpleNamespace) -> Layouts:
    """The next schema: users have a city and no gender, items a colour, behaviours the colour and no price."""
    other = json.loads(json.dumps(kit.SCHEMA))
    other["user"][1] = {"name": "city", "type": "categorical"}
    other["item"].append({"name": "colour", "type": "categorical"})
    other["behaviour"]["item_features"] = ["item_id", "colour", "tag"]
    return Layouts.of(FeatureSchema.model_validate(other))


@pytest.fixture
def both(server: Any, store: redis.Redis, layouts: Layouts, next_layouts: Layouts) -> redis.Redis:
    """A Redis that has the live schema, while the next schema is being loaded."""
    register_schema(store, layouts.schema)
    announce_schema(store, next_layouts.schema)
    return store
