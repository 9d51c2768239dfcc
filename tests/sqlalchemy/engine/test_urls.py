"""URLs of sync SQLAlchemy: translated for asyncio drivers, or refused with the name."""

from __future__ import annotations

import ssl
import warnings

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from aiorpc import ConfigurationError
from aiorpc.sqlalchemy import configured, open_engine, parse_database_url
from tests.support.databases import Base
from tests.support.forwarder import Forwarder
from tests.support.tls import permit_tls_from


@pytest.mark.parametrize(
    ("text", "drivername"),
    [
        ("postgres://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+asyncpg"),
        ("postgres+asyncpg://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql+psycopg://u:p@h/db", "postgresql+psycopg"),
        ("mysql://u:p@h/db", "mysql+aiomysql"),
        ("mysql+pymysql://u:p@h/db", "mysql+aiomysql"),
        ("mysql+mysqldb://u:p@h/db", "mysql+aiomysql"),
        ("mysql+asyncmy://u:p@h/db", "mysql+asyncmy"),
        ("mariadb://u:p@h/db", "mariadb+aiomysql"),
        ("mariadb+mariadbconnector://u:p@h/db", "mariadb+aiomysql"),
        ("sqlite://", "sqlite+aiosqlite"),
        ("sqlite:///file.db", "sqlite+aiosqlite"),
        ("sqlite+pysqlite:///file.db", "sqlite+aiosqlite"),
        ("oracle+oracledb_async://u:p@h/db", "oracle+oracledb_async"),
    ],
)
def test_a_sync_driver_is_replaced_and_an_asyncio_driver_is_kept(
    text: str, drivername: str
) -> None:
    assert parse_database_url(text).url.drivername == drivername


def test_utf8_of_mysql_becomes_utf8mb4() -> None:
    database = parse_database_url("mysql://user:pass@host:3306/firstbase?charset=utf8")
    assert (database.url.host, database.url.port) == ("host", 3306)
    assert database.url.password == "pass"
    assert database.connect_args == {"charset": "utf8mb4"}
    assert not database.url.query


@pytest.mark.parametrize(
    ("query", "connect_args"),
    [
        ("connect_timeout=5", {"timeout": 5.0}),
        ("command_timeout=1.5&statement_cache_size=0", {"command_timeout": 1.5}),
        ("ssl=true", {"ssl": "require"}),
        ("ssl=0", {"ssl": "disable"}),
        ("ssl=verify-full", {"ssl": "verify-full"}),
        ("sslmode=require", {"dsn": "postgresql://?sslmode=require"}),
        (
            "sslmode=verify-full&sslrootcert=/etc/ca.pem",
            {"dsn": "postgresql://?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"},
        ),
        (
            "application_name=library&options=-c+search_path%3Dx",
            {"server_settings": {"application_name": "library", "options": "-c search_path=x"}},
        ),
        ("client_encoding=utf8&gssencmode=prefer", {}),
        ("direct_tls=true&dbname=other", {"direct_tls": True, "database": "other"}),
    ],
)
def test_arguments_of_libpq_become_those_of_asyncpg(
    query: str, connect_args: dict[str, object]
) -> None:
    found = parse_database_url(f"postgresql://u:p@h/db?{query}").connect_args
    assert connect_args.items() <= found.items()
    assert connect_args or not found


def test_sqlalchemy_reads_several_hosts_itself() -> None:
    database = parse_database_url("postgresql://u:p@/db?host=a:1&host=b:2")
    engine = create_async_engine(database.url)
    _, arguments = engine.dialect.create_connect_args(database.url)
    assert arguments["host"] == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "connect_args"),
    [
        ("charset=utf8mb4&connect_timeout=3", {"charset": "utf8mb4", "connect_timeout": 3.0}),
        ("unix_socket=/run/mysqld.sock", {"unix_socket": "/run/mysqld.sock"}),
        ("use_unicode=1&local_infile=false", {"use_unicode": True, "local_infile": False}),
        ("init_command=SET+time_zone%3D'%2B00:00'", {"init_command": "SET time_zone='+00:00'"}),
        ("passwd=secret&binary_prefix=true", {"password": "secret"}),
        ("ssl_disabled=true&ssl_ca=/no/such", {}),
    ],
)
def test_arguments_of_pymysql_become_those_of_aiomysql(
    query: str, connect_args: dict[str, object]
) -> None:
    assert parse_database_url(f"mysql://u:p@h/db?{query}").connect_args == connect_args


@pytest.mark.parametrize(
    ("query", "verify_mode", "check_hostname"),
    [
        ("ssl=true", ssl.CERT_NONE, False),
        ("ssl_mode=REQUIRED", ssl.CERT_NONE, False),
        ("ssl_mode=VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
        ("sslmode=verify-full", ssl.CERT_REQUIRED, True),
        ("ssl_mode=VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("ssl_verify_cert=true", ssl.CERT_REQUIRED, False),
        ("ssl_verify_identity=true", ssl.CERT_REQUIRED, True),
    ],
)
def test_tls_arguments_of_mysql_become_a_context(
    query: str, verify_mode: ssl.VerifyMode, check_hostname: bool
) -> None:
    context = parse_database_url(f"mysql://u:p@h/db?{query}").connect_args["ssl"]
    assert (context.verify_mode, context.check_hostname) == (verify_mode, check_hostname)


def test_tls_1_2_is_the_lowest_version_for_mysql_whatever_openssl_permits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    permit_tls_from(monkeypatch, ssl.TLSVersion.MINIMUM_SUPPORTED)
    context = parse_database_url("mysql://u:p@h/db?ssl=true").connect_args["ssl"]
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://u:p@h/db?sslmod=require", ["asyncpg has no argument sslmod", "sslmode?"]),
        ("postgresql://u:p@h/db?keepalives_idle=30", ["keepalives_idle", "pool_pre_ping"]),
        ("postgresql://u:p@h/db?channel_binding=require", ["channel_binding", "psycopg"]),
        ("postgresql://u:p@h/db?connect_timeout=soon", ["connect_timeout", "number of seconds"]),
        ("postgresql://u:p@h/db?ssl=maybe", ["ssl", "true, false, or one of disable", "'maybe'"]),
        ("postgresql://u:p@h/db?sslmode=maybe", ["sslmode", "verify-full", "'maybe'"]),
        ("postgresql://u:p@h/db?client_encoding=latin1", ["client_encoding", "UTF-8"]),
        ("mysql://u:p@h/db?read_timeout=3", ["aiomysql has no argument read_timeout", "deadline"]),
        ("mysql://u:p@h/db?autocommit=true", ["isolation_level: AUTOCOMMIT"]),
        ("mysql://u:p@h/db?sharset=utf8", ["sharset", "did you mean charset?"]),
        ("mysql://u:p@h/db?ssl_mode=maybe", ["ssl_mode", "verify_identity", "'maybe'"]),
        ("mysql://u:p@h/db?ssl_ca=/no/such/file", ["TLS files"]),
        ("sqlite:///x.db?charset=utf8", ["aiosqlite has no argument charset"]),
        ("mssql://u:p@h/db", ["mssql+aioodbc"]),
        ("mysql://user:pass@host:port/firstbase", ["is not a database URL", "host:port/firstbase"]),
        ("nonsense", ["is not a database URL"]),
    ],
)
def test_the_error_for_an_argument_that_the_driver_lacks_names_it(
    text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_database_url(text, 'config: DB_URIS["library:Base"]')
    assert str(caught.value).startswith('config: DB_URIS["library:Base"]')
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "mysql://user:s3cret@host:port/db",
        "mysql://user:s3cret/more@host:port/db",
        "postgresql://user:s3cret@host/db?password=s3cret&sslmod=x",
        "postgresql://user:s3c@ret@host:x/db",
        "user:s3cret@host",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_database_url(text)
    shown = "".join((str(caught.value), repr(caught.value.__cause__), repr(caught.value.args)))
    assert "s3c" not in shown
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_parsed_url_shows_no_password() -> None:
    for driver in ("asyncpg", "psycopg"):
        database = parse_database_url(
            f"postgresql+{driver}://user:s3cret@host/db?password=s3cret&sslmode=require"
        )
        assert "s3cret" not in f"{database} {database!r}"


def test_a_parsed_url_makes_an_engine_without_a_warning() -> None:
    for text in (
        "postgresql://u:p@h/db?sslmode=require&connect_timeout=3",
        "mysql://u:p@h/db?charset=utf8&client_flag=2",
        "sqlite:///file.db?timeout=3",
    ):
        database = parse_database_url(text)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine = create_async_engine(database.url, connect_args=dict(database.connect_args))
            engine.dialect.create_connect_args(database.url)


@pytest.mark.parametrize(
    "query", ["ssl=true", "ssl_mode=REQUIRED", "ssl_mode=VERIFY_CA", "ssl_verify_identity=true"]
)
async def test_no_password_is_sent_if_the_server_does_not_offer_the_required_tls(
    mysql_uri: str, query: str
) -> None:
    url = make_url(mysql_uri)
    if await _cipher(mysql_uri, "ssl_mode=PREFERRED"):
        assert await _cipher(mysql_uri, "ssl_mode=REQUIRED")
        pytest.skip("the server offers TLS")
    overheard = Forwarder(url)
    async with overheard.running() as port:
        through = url.set(port=port).render_as_string(hide_password=False)
        with pytest.raises(ConfigurationError, match=r"DB_URI requires TLS.*offers none"):
            await _cipher(through, query)
        assert overheard.said == b""
        assert await _cipher(through, "ssl_mode=PREFERRED") == ""
        assert overheard.said


async def _cipher(text: str, query: str) -> str:
    """What the connection is enciphered with; "" for nothing."""
    url = make_url(text).update_query_string(query).render_as_string(hide_password=False)
    async with (
        open_engine(configured({"DB_URI": url}, "tests", Base)) as engine,
        engine.connect() as connection,
    ):
        row = (await connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'")).one()
        return str(row[1])
