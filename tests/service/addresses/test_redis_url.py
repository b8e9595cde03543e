"""Tests Redis' URL: reads and writes understand each form alike; a refusal names the cause and no password."""

import asyncio
import inspect
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.connection import SSLConnection

from service.addresses.redis_url import OPTIONS, TLS_OPTIONS, address_of
from service.server.serve import CannotStart, check_start
from service.settings import Settings, SettingsError
from service.store.redis.clients import async_client, client


@pytest.mark.parametrize(
    ("url", "nodes", "user", "password"),
    [
        ("redis+cluster://one", (("one", 6379),), None, None),
        (
            "redis+cluster://one:7000,two:7001,10.0.0.3:7002/",
            (("one", 7000), ("two", 7001), ("10.0.0.3", 7002)),
            None,
            None,
        ),
        ("redis+cluster://me:h%40sh@one:1,two:2/0", (("one", 1), ("two", 2)), "me", "h@sh"),
        ("rediss+cluster://:hush@[::1]:7000/?ssl_ca_certs=/ca.pem", (("::1", 7000),), None, "hush"),
    ],
)
def test_a_clusters_url_names_its_nodes_and_how_to_reach_each(
    url: str, nodes: tuple[tuple[str, int], ...], user: str | None, password: str | None
) -> None:
    address = address_of(url)
    assert address.is_cluster
    assert (address.nodes, address.username, address.password) == (nodes, user, password)
    assert (address.tls is not None) == url.startswith("rediss")
    assert address.tls is None or address.tls["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    ("url", "nodes", "database"),
    [
        ("redis://h/3", (("h", 6379),), 3),
        ("redis://u:p@h:1/0", (("h", 1),), 0),
        ("redis://h?db=4", (("h", 6379),), 4),
        ("rediss://h", (("h", 6379),), 0),
        ("unix:///run/redis.sock?db=2", (), 2),
        ("redis://[::1]:6379", (("::1", 6379),), 0),
        ("redis://", (("localhost", 6379),), 0),
    ],
)
def test_one_redis_is_no_cluster(url: str, nodes: tuple[tuple[str, int], ...], database: int) -> None:
    address = address_of(url)
    assert (address.is_cluster, address.nodes, address.database) == (False, nodes, database)
    assert address.path == ("/run/redis.sock" if url.startswith("unix") else "")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:hush@h/0", "starts with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://"),
        ("redis://me:hush@one:1,two:2/0", "redis+cluster://host:port,host:port/"),
        ("redis+cluster://me:hush@one:1/3", "database 0"),
        ("redis+cluster://me:hush@one:99999", "port from 1 to 65535"),
        ("redis+cluster://me:hush@one:1,,two:2", "host:port is expected"),
        ("redis+cluster://me:hu/sh@one:1", "%2F"),
        ("redis://me:hu/sh@one:1", "%2F"),
        ("redis+cluster://", "host:port is expected"),
        ("redis://me:hush@h/0?socket_timeout=1", "FUNNELRANK_REDIS_TIMEOUT_MS"),
        ("redis://me:hush@h/0?decode_responses=true", "option decode_responses is not supported"),
        ("rediss://me:hush@h/0?ssl_validate_ocsp=true", "option ssl_validate_ocsp is not supported"),
        ("redis://me:hush@h/0?ssl_ca_certs=/ca.pem", "option ssl_ca_certs is for TLS"),
        ("rediss://me:hush@h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of none, optional, required"),
        ("rediss://me:hush@h/0?ssl_min_version=TLS1", "Invalid value for 'ssl_min_version'"),
        ("rediss://me:hush@h/0?ssl_password=", "option ssl_password has no value"),
        ("redis://me:hush@h/behaviours", "number of the database"),
        ("redis://me:hush@h/?db=-1", "0 or more"),
        ("redis+cluster://me:hush@h/?db=1", "database 0"),
        ("unix://run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("unix:redis.sock", "three slashes"),
        ("redis://me:hush@h/1?db=3", "option db has two values"),
        ("redis://me:hush@h/?db=1&db=3", "option db has two values"),
        ("redis://me:hush@h/0?password=other", "option password has two values"),
        ("redis+cluster://me:hush@h/?username=other", "option username has two values"),
        ("redis://h/0?password=hush#hour", "what follows # is no part of a URL"),
        ("redis://me:hush@h /0", "host:port is expected"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_its_variable_and_without_its_password(url: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"FUNNELRANK_REDIS_URL": url})
    assert "FUNNELRANK_REDIS_URL" in str(error.value)
    assert message in str(error.value)
    assert "hu" not in str(error.value)


def test_the_tls_options_are_those_that_both_clients_of_redis_py_know() -> None:
    known = [
        {name for name in inspect.signature(kind.__init__).parameters if name.startswith("ssl_")}
        for kind in (SSLConnection, AsyncSSLConnection)
    ]
    assert set(TLS_OPTIONS) == known[0] & known[1]
    assert set(TLS_OPTIONS) < set(OPTIONS)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for `redis.internal` and its key, which has the password `open`."""
    key = folder / "key.pem"
    cert = folder / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-passout",
            "pass:open",
            "-days",
            "2",
            "-keyout",
            str(key),
            "-out",
            str(cert),
            "-subj",
            "/CN=redis.internal",
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("pem"))


def described(context: Any) -> dict[str, Any]:
    """What a TLS context requires of the other side, and what it offers."""
    assert context is not None
    return {
        "hostname": context.check_hostname,
        "verify": context.verify_mode,
        "flags": context.verify_flags,
        "lowest": context.minimum_version,
        "ciphers": [c["name"] for c in context.get_ciphers()],
        "authorities": context.cert_store_stats(),
    }


def tls_of(connection: Any) -> dict[str, Any]:
    """The TLS options of a connection of redis-py. Some have other names in the asyncio client."""
    has = getattr(connection, "ssl_context", connection)
    other_names = {"password": "certificate_password", "ciphers": "ssl_ciphers", "min_version": "ssl_min_version"} | {
        f"{kind}_verify_flags": f"ssl_{kind}_verify_flags" for kind in ("include", "exclude")
    }
    names = ("keyfile", "certfile", "cert_reqs", "ca_certs", "ca_path", "ca_data", "check_hostname", *other_names)
    return {n: getattr(has, other_names.get(n, n) if has is connection else n) for n in names}


async def connections(url: str) -> list[Any]:
    """A connection of each redis-py client that writes with this URL."""
    with client(url, 1) as loading:
        made = [loading.connection_pool.make_connection()]
    writing = async_client(url, 1)
    made.append(writing.connection_pool.make_connection())
    await writing.aclose()
    return made


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reads_and_writes_make_the_same_of_every_option(pem: tuple[Path, Path], data: st.DataObject) -> None:
    # Not a coroutine: hypothesis ends an example by an exception, which asyncio would log from the garbage collector,
    # and Python 3.11 cannot parse a file meanwhile.
    cert, key = pem
    tls = {
        "ssl_cert_reqs": st.sampled_from(["none", "optional", "required"]),
        "ssl_check_hostname": st.sampled_from(["true", "false", "0", "yes", "no"]),
        "ssl_min_version": st.sampled_from(["771", "772"]),
        "ssl_ca_certs": st.just(str(cert)),
        "ssl_ca_path": st.just(str(cert.parent)),
        "ssl_ca_data": st.just(cert.read_text()),
        "ssl_ciphers": st.sampled_from(["ECDHE-RSA-AES128-GCM-SHA256", "HIGH"]),
        "ssl_include_verify_flags": st.just("VERIFY_X509_STRICT"),
        "ssl_exclude_verify_flags": st.just("VERIFY_X509_TRUSTED_FIRST"),
    }
    scheme = data.draw(st.sampled_from(["redis", "rediss", "unix"]), "scheme")
    names = data.draw(st.sets(st.sampled_from(sorted(tls)))) if scheme == "rediss" else set()
    options = {name: data.draw(tls[name], name) for name in sorted(names)}
    if scheme == "rediss" and data.draw(st.booleans(), "own certificate"):
        options |= {"ssl_certfile": str(cert), "ssl_keyfile": str(key), "ssl_password": "open"}
    user = data.draw(st.none() | texts, "user")
    password = data.draw(st.none() | texts, "password")
    database = data.draw(st.integers(0, 15), "database")
    credentials = quote(user or "", safe="") + ("" if password is None else ":" + quote(password, safe=""))
    place = "/run/some.sock" if scheme == "unix" else "example.com:7000/"
    url = f"{scheme}://{credentials + '@' if credentials else ''}{place}?{urlencode(options | {'db': database})}"

    address = address_of(url)
    assert (address.username, address.password, address.database) == (user, password, database)
    for connection in asyncio.run(connections(url)):
        assert (connection.username, connection.password) == (address.username, address.password)
        assert connection.db == address.database
        if scheme == "unix":
            assert connection.path == address.path == "/run/some.sock"
            continue
        assert ((connection.host, connection.port),) == address.nodes == (("example.com", 7000),)
        assert (address.tls_context is not None) == (scheme == "rediss")
        if scheme == "rediss":
            assert tls_of(connection) == tls_of(AsyncSSLConnection(**address.tls))
            if isinstance(connection, AsyncSSLConnection):
                assert described(connection.ssl_context.get()) == described(address.tls_context)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_named_with_its_option(option: str) -> None:
    address = address_of(f"rediss://me:hush@h/?{option}=/nowhere/file.pem")
    with pytest.raises(ValueError, match=f"{option}: there is no file /nowhere/file.pem") as error:
        _ = address.tls_context
    assert "hush" not in str(error.value)


def test_a_tls_file_that_is_not_there_is_refused_at_the_start() -> None:
    url = "rediss://me:hush@h/?ssl_ca_certs=/nowhere/file.pem"
    with pytest.raises(CannotStart, match="FUNNELRANK_REDIS_URL: ssl_ca_certs: there is no file") as error:
        check_start(Settings.from_environment({"FUNNELRANK_REDIS_URL": url}))
    assert "hush" not in str(error.value)
