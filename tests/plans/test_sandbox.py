"""No expression reads a file, opens a socket, starts a process, sees a setting or reaches a Python object."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from apwa_dask.errors import PlanError
from apwa_dask.plans._sandbox import cursor
from apwa_dask.plans.expressions import check, evaluate

WATCHED = (
    "open",
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "ctypes.dlopen",
    "exec",
    "import",
)
_seen: list[str] = []
_watching = threading.Event()


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching.is_set() and event.startswith(WATCHED):
        _seen.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hook)

TABLE = pa.table({"n": [1], "text": ["a"]})
a_python_variable = pa.table({"secret": ["canary-in-python"]})


@pytest.fixture
def events() -> Iterator[list[str]]:
    """Audit events of the test's body. Everything lazy is loaded first."""
    evaluate({"v": "n + length(text)"}, TABLE)
    with pytest.raises(PlanError):
        evaluate({"v": "CAST(text AS INTEGER)"}, TABLE)
    _seen.clear()
    _watching.set()
    try:
        yield _seen
    finally:
        _watching.clear()


def payloads(secret: Path, target: Path) -> list[str]:
    """The corpus: ways out that work on a DuckDB with its defaults, and more."""
    wrapped = [
        f"(SELECT content FROM read_text('{secret}'))",
        f"(SELECT * FROM '{secret}')",
        f"(SELECT * FROM read_csv('{secret}'))",
        f"(SELECT * FROM read_json_auto('{secret}'))",
        f"(SELECT * FROM read_parquet('{secret}'))",
        f"(SELECT * FROM read_blob('{secret}'))",
        f"(SELECT count(*) FROM glob('{secret.parent}/*'))",
        f"(FROM '{secret}')",
        "(SELECT secret FROM a_python_variable)",
        "(SELECT * FROM TABLE)",
        "(SELECT * FROM read_csv('http://127.0.0.1:9/x'))",
        "(SELECT * FROM 's3://bucket/key.parquet')",
        "(SELECT value FROM duckdb_settings())",
        "(SELECT sql FROM sqlite_master)",
        "(SELECT * FROM pragma_version())",
        "(SELECT * FROM which_secret('a', 'b'))",
        "(SELECT * FROM sniff_csv('x'))",
        "(SELECT * FROM duckdb_extensions())",
        "(SELECT * FROM query('SELECT 1'))",
        "(SELECT * FROM query_table('t'))",
        "(WITH t AS (SELECT 1) SELECT * FROM t)",
        "(VALUES (1))",
        "(TABLE a_python_variable)",
        "EXISTS (FROM a_python_variable)",
        "n IN (SELECT n FROM a_python_variable)",
        "n = ANY (SELECT 1)",
        "ARRAY(SELECT 1)",
    ]
    statements = [
        f"COPY (SELECT 1) TO '{target}'",
        f"EXPORT DATABASE '{target}'",
        f"ATTACH '{target}' AS d",
        "SET enable_external_access=true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "CREATE TABLE t AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "INSTALL x FROM 'http://127.0.0.1:9'",
        "CHECKPOINT",
        "EXPLAIN SELECT 1",
        "DESCRIBE SELECT 1",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DROP TABLE t",
        "USE memory",
        "BEGIN TRANSACTION",
        "VACUUM",
        "SHOW TABLES",
        "IMPORT DATABASE 'x'",
        "UPDATE t SET a = 1",
    ]
    calls = [
        "getenv('HOME')",
        "current_setting('memory_limit')",
        "getvariable('x')",
        "current_user",
        "session_user",
        "current_database()",
        "current_schema()",
        "current_query()",
        "version()",
        "txid_current()",
        "nextval('s')",
        "write_log('x')",
        "sleep_ms(10)",
        "pg_sleep(1)",
        "json_serialize_plan('SELECT 1')",
        "json_deserialize_sql('{}')",
        "json_execute_serialized_sql('{}')",
        "query('SELECT 1')",
        "read_text('/etc/passwd')",
        "parse_duckdb_log_message('a', 'b')",
        "in_search_path('a', 'b')",
        "set_bit('1'::BIT, 0, 1)",
        "error('x')",
        "stats(n)",
        "invoke(lambda x: x, 1)",
        "__internal_compress_string_utinyint(text)",
        "main.upper(text)",
        "memory.main.upper(text)",
        "system.main.upper(text)",
        "pg_catalog.format_type(1, 2)",
        "unnest([1, 2])",
        "generate_series(1, 1000000000)",
        "range(1000000000)",
        "printf('%1000000000d', n)",
        "format('{:1000000000}', text)",
        "__import__('os').system('id')",
        "@os.system('id')",
        "os.system('id')",
        "text.__class__",
        "eval('1')",
        "{{ text }}",
        "${text}",
        "`id`",
        "$(id)",
        "$1",
        "?",
        ":name",
        "DEFAULT",
        "#1",
        "*",
        "COLUMNS(*)",
        "*COLUMNS(*)",
        "tab.*",
        "GROUPING(n)",
        "count(*)",
        "first(n) FILTER (WHERE true)",
        "lag(n) OVER (ORDER BY n)",
    ]
    breakouts = [
        f"1) FROM read_text('{secret}') WHERE (1=1",
        "1) UNION ALL SELECT (2",
        "1) FROM a_python_variable --",
        "1); COPY (SELECT 1) TO '/tmp/x'; SELECT (1",
        "1 /*",
        "1 */ + /* 1",
        "1) AS x, (SELECT 1",
        "1 FROM t",
        "1 WHERE true",
        "1 LIMIT 1",
        "1 ORDER BY 1",
        "DISTINCT n",
        "ALL n",
        "n AS other",
        "1 INTO t",
        "'; SELECT 1; --",
        "\\'; SELECT 1; --",
        "1 USING SAMPLE 1",
        "n QUALIFY true",
    ]
    paths = ["file:///etc/passwd", "../../etc/passwd", "/etc/passwd", "s3://b/k", "http://127.0.0.1/", "a::b"]
    return wrapped + statements + [f"1; {statement}" for statement in statements] + calls + breakouts + paths


def test_no_payload_gets_out_and_none_is_evaluated(tmp_path: Path, events: list[str]) -> None:
    secret, target = tmp_path / "secret.csv", tmp_path / "out.csv"
    _watching.clear()
    secret.write_text("a\ncanary-in-file\n")
    _watching.set()
    accepted, leaked = [], []
    for payload in payloads(secret, target):
        try:
            found = evaluate({"v": payload}, TABLE)["v"].to_pylist()
        except PlanError as error:
            if "canary" in str(error):
                leaked.append(payload)
            continue
        accepted.append((payload, found))
    _watching.clear()
    assert accepted == []
    assert leaked == []
    assert events == []
    assert os.listdir(tmp_path) == ["secret.csv"]


def test_checking_at_plan_time_opens_nothing(events: list[str]) -> None:
    for payload in payloads(Path("/etc/passwd"), Path("/tmp/out")):
        with pytest.raises(PlanError):
            check({"v": payload}, TABLE.schema)
    assert events == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/apwa-never-written'",
        "ATTACH '/tmp/apwa-never-written'",
        "SET enable_external_access=true",
        "SET threads=8",
        "SET memory_limit='64GB'",
        "RESET lock_configuration",
        "INSTALL httpfs",
        "SELECT * FROM a_python_variable",
        "SELECT * FROM 'http://127.0.0.1:9/x.csv'",
    ],
)
def test_the_second_wall_holds_without_the_first(statement: str) -> None:
    a_python_variable = pa.table({"secret": ["canary"]})
    assert a_python_variable.num_rows == 1
    with pytest.raises(duckdb.Error):
        cursor().execute(statement).fetchall()


def test_memory_is_bounded() -> None:
    table = pa.table({"text": ["x" * 100_000] * 400})
    with pytest.raises(PlanError, match="fails on some row"):
        evaluate({"v": "repeat(text, 10000)"}, table)
    assert evaluate({"v": "length(text)"}, table)["v"].to_pylist() == [100_000] * 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(60)
def test_a_forked_child_opens_its_own_database() -> None:
    evaluate({"v": "n"}, TABLE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs must not outlive the test
        try:
            os.write(write, str(evaluate({"v": "n + 41"}, TABLE)["v"].to_pylist()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == "[42]"
