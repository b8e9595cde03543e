"""Owns the promises about Redis' address: each form is understood, and what cannot be used is told without showing a password."""

import pytest

from service.redis_url import seeds_of
from service.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("url", "nodes", "first"),
    [
        ("redis+cluster://one", (("one", 6379),), "redis://one:6379/"),
        (
            "redis+cluster://one:7000,two:7001,10.0.0.3:7002/",
            (("one", 7000), ("two", 7001), ("10.0.0.3", 7002)),
            "redis://one:7000/",
        ),
        ("redis+cluster://me:h%40sh@one:1,two:2/0", (("one", 1), ("two", 2)), "redis://me:h%40sh@one:1/"),
        (
            "rediss+cluster://:hush@[::1]:7000/?ssl_ca_certs=/ca.pem",
            (("::1", 7000),),
            "rediss://:hush@[::1]:7000/?ssl_ca_certs=/ca.pem",
        ),
    ],
)
def test_a_clusters_address_names_its_nodes_and_how_to_reach_each(
    url: str, nodes: tuple[tuple[str, int], ...], first: str
) -> None:
    seeds = seeds_of(url)
    assert seeds is not None
    assert seeds.nodes == nodes
    assert seeds.at(nodes[0]) == first


@pytest.mark.parametrize(
    "url",
    ["redis://h/3", "redis://u:p@h:1/0?socket_timeout=1", "rediss://h", "unix:///run/redis.sock", "redis://[::1]:6379"],
)
def test_one_redis_is_no_cluster(url: str) -> None:
    assert seeds_of(url) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:hush@h/0", "starts with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://"),
        ("redis://me:hush@one:1,two:2/0", "redis+cluster://host:port,host:port/"),
        ("redis+cluster://me:hush@one:1/3", "database 0"),
        ("redis+cluster://me:hush@one:99999", "port from 1 to 65535"),
        ("redis+cluster://me:hush@one:1,,two:2", "host:port is expected"),
        ("redis+cluster://me:hu/sh@one:1", "%2F"),
        ("redis://me:hu/sh@one:1", "%2F"),
        ("redis+cluster://", "host:port is expected"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_by_the_variable_and_without_its_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as told:
        Settings.from_environment({"FUNNELRANK_REDIS_URL": url})
    assert "FUNNELRANK_REDIS_URL" in str(told.value)
    assert said in str(told.value)
    assert "hu" not in str(told.value)
