"""The capabilities that come with the package: right answers, bounded ones, and nothing but the unit in reach."""

from __future__ import annotations

import threading
import time

import orjson
import pyarrow as pa
import pytest

from apwa_dask.agents.agent import Agent
from apwa_dask.agents.builtin import BUILTIN, sql
from apwa_dask.agents.capabilities import capability, described, find_capability, known_capabilities
from apwa_dask.agents.toolbox import Toolbox
from apwa_dask.agents.unit import Row, Tables, Unit
from apwa_dask.errors import PlanError
from apwa_dask.models.types import OutcomeClass, Reply, ToolCall

CODES = pa.table({"code": ["E1", "E2", "E2"], "meaning": ["ok", "broken", "burnt"], "n": [1, 2, 3]})
SCHEMA = pa.schema([("text", pa.string()), ("stars", pa.int64()), ("tags", pa.list_(pa.string()))])
ROW = Row({"text": "It broke.\nIt  broke twice.", "stars": 4, "tags": ["a", "b"]}, SCHEMA)
UNIT = Unit(ROW, Tables({"codes": CODES}))


def use(name, unit=UNIT, **arguments):
    """What the tool says, or its error."""
    result = BUILTIN[name].run(orjson.dumps(arguments).decode(), unit)
    return result.content if result.error else orjson.loads(result.content)


def test_they_are_found_by_name_like_a_users_and_a_users_of_the_same_name_wins(monkeypatch):
    from apwa_dask.agents import capabilities

    monkeypatch.setattr(capabilities, "_registry", {})
    assert set(BUILTIN) <= set(known_capabilities())
    assert find_capability("calculate") is BUILTIN["calculate"]

    @capability
    def calculate(expression: str) -> str:
        """Mine."""
        return "mine"

    assert find_capability("calculate").description == "Mine."


def test_each_has_a_version_and_a_description_and_is_pure():
    for tool in BUILTIN.values():
        assert tool.version
        assert tool.description
        assert tool.power == "pure"
        assert tool.max_result_chars <= 8_000


def test_the_version_of_a_builtin_is_in_the_fingerprint_of_requests(kit, monkeypatch):
    def fingerprint():
        return kit.agent(tools=["calculate"]).begin({"text": "a"}).request.fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    monkeypatch.setitem(BUILTIN, "calculate", described(BUILTIN["calculate"].function, version="2"))
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("expression", "value"),
    [("0.1 + 0.2", 0.3), ("7 / 2", 3.5), ("round(19.99 * 3, 1)", 60.0), ("17 % 5", 2),
     ("2 ** 10", 1024), ("1 > 2", False)],
)  # fmt: skip
def test_the_calculator_calculates(expression, value):
    assert use("calculate", expression=expression) == {"value": value}


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "(SELECT 1)",
        "read_text('/etc/passwd')",
        "1; SELECT 2",
        "random()",
        "9 ** 99 ** 99 ** 99 x",
        "repeat('x', 1000000000)",
        "2 * " * 400 + "2",
        "list_reduce([1, 2, 3], lambda a, b: a || a)",
        "length('text')",
        "[1, 2]",
        "'a' || 'b'",
    ],
)
def test_the_calculator_refuses_what_is_no_arithmetic(expression):
    said = use("calculate", expression=expression)
    assert isinstance(said, str), said


def test_dates_are_shifted_within_the_calendar():
    assert use("shift_date", start="2024-01-31", months=1) == {"date": "2024-02-29", "weekday": "Thursday"}
    assert use("shift_date", start="2024-02-29", years=-1)["date"] == "2023-02-28"
    assert use("shift_date", start="2026-11-22", weeks=1, days=1)["date"] == "2026-11-30"
    assert "raised ValueError" in use("shift_date", start="9999-01-01", years=1)
    assert "raised OverflowError" in use("shift_date", start="9999-01-01", days=999_999)
    assert "start" in use("shift_date", start="31 January")


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        ("2026-11-20", "2026-11-23", (3, 1, 0, 0)),  # from a Friday to a Monday
        ("2024-02-29", "2026-02-28", (730, 522, 24, 2)),
        ("2026-03-15", "2026-03-01", (-14, -10, 0, 0)),
        ("2000-05-06", "2000-05-06", (0, 0, 0, 0)),
    ],
)
def test_differences_of_dates(start, end, told):
    found = use("date_difference", start=start, end=end)
    assert tuple(found.values()) == told


def test_offsets_of_words_are_the_texts_own():
    found = use("find_text", words="it broke")
    assert found["matches"] == 2
    text = ROW["text"]
    assert [text[place["start"] : place["end"]] for place in found["places"]] == ["It broke", "It  broke"]
    assert use("find_text", words="it broke", ignore_case=False)["matches"] == 0
    assert use("find_text", words=".*")["matches"] == 0
    assert "text columns" in use("find_text", words="x", column="stars")


def test_search_in_a_large_document_is_bounded():
    unit = Unit(Row({"text": "a" + " " * 200_000 + "a " * 100_000}, SCHEMA))
    started = time.monotonic()
    found = use("find_text", unit, words="a b", most=20)
    assert (found["matches"], time.monotonic() - started < 30) == (0, True)
    assert use("find_text", unit, words="a", most=20)["matches"] == 10_000
    assert len(use("find_text", unit, words="a", most=20)["places"]) == 20
    assert "most" in use("find_text", unit, words="a", most=21)


def test_rows_of_a_lent_table_are_found_by_key():
    found = use("lookup_rows", table="codes", column="code", value="E2", columns=["meaning"])
    assert found == {"found": 2, "rows": [{"meaning": "broken"}, {"meaning": "burnt"}]}
    assert use("lookup_rows", table="codes", column="n", value="3")["rows"][0]["code"] == "E2"
    assert use("lookup_rows", table="codes", column="n", value="three") == {"found": 0, "rows": []}
    assert use("lookup_rows", table="codes", column="code", value="E2", most=1)["found"] == 2
    assert "did you mean 'codes'" in use("lookup_rows", table="code", column="code", value="x")
    assert "did you mean 'code'" in use("lookup_rows", table="codes", column="cod", value="x")


def test_a_tool_that_needs_tables_is_refused_where_none_is_lent():
    with pytest.raises(PlanError, match="lends it none"):
        Toolbox.of(["lookup_rows"])
    assert Toolbox.of(["lookup_rows"], tables={"codes": CODES.schema}).tools


def test_sql_over_the_row_and_the_lent_tables():
    assert use("query_row", query="SELECT stars + 1 AS s, len(tags) AS n FROM row_inputs;") == {
        "rows": [{"s": 5, "n": 2}],
        "more": False,
    }
    joined = """SELECT count(*) AS n, min(meaning) AS m FROM codes JOIN row_inputs ON codes.n < stars
                GROUP BY code ORDER BY 1"""
    assert use("query_row", query=joined)["rows"] == [{"n": 1, "m": "ok"}, {"n": 2, "m": "broken"}]
    tags = "WITH t AS (SELECT unnest(tags) AS tag FROM row_inputs) SELECT tag FROM t ORDER BY tag -- comment"
    assert use("query_row", query=tags)["rows"] == [{"tag": "a"}, {"tag": "b"}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "FROM '/etc/passwd'",
        "SELECT * FROM CODES_PYTHON",
        "SELECT * FROM codes; SELECT 1",
        "COPY codes TO '/tmp/x'",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM main.codes",
        "SELECT getenv('HOME')",
        "SELECT current_setting('memory_limit')",
        "SELECT * FROM range(100000000000)",
        "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT * FROM t",
        "SHOW TABLES",
        "SET threads = 8",
        "ATTACH 'x'",
        "SELECT random()",
        "SELECT now()",
        "SELECT ?",
        "SELECT * FROM codes USING SAMPLE 1",
        "SELECT * FROM query('SELECT 1')",
        "SELECT repeat('x', 100000)",
        ") UNION SELECT (1",
        "SELECT 1) UNION ALL SELECT * FROM ('/etc/passwd'",
        "PIVOT codes ON code",
        "SELECT __import__('os')",
        "",
        "SELECT 1\0",
    ],
)
def test_sql_reaches_nothing_but_the_unit(query):
    CODES_PYTHON = CODES
    assert CODES_PYTHON.num_rows
    assert isinstance(use("query_row", query=query), str)


def test_sql_gives_back_few_rows_and_says_that_there_are_more():
    wide = Unit(ROW, Tables({"codes": pa.table({"n": list(range(500))})}))
    found = use("query_row", wide, query="SELECT * FROM codes")
    assert (len(found["rows"]), found["more"]) == (sql.MOST_ROWS, True)


def test_sql_is_interrupted(monkeypatch):
    monkeypatch.setattr(sql, "MAX_SECONDS", 0.2)
    wide = Unit(ROW, Tables({"codes": pa.table({"n": list(range(20_000))})}))
    slow = "SELECT sum(sqrt(a.n * b.n + c.n)) AS s FROM codes a, codes b, codes c"
    assert "took more than" in use("query_row", wide, query=slow)
    assert use("query_row", wide, query="SELECT count(*) AS n FROM codes")["rows"] == [{"n": 20_000}]


def test_sql_that_fills_its_memory_takes_none_from_the_expressions_of_a_plan():
    wide = Unit(ROW, Tables({"codes": pa.table({"n": list(range(3_000))})}))
    said = use("query_row", wide, query="SELECT list(a.n * b.n + c.n) AS l FROM codes a, codes b, codes c")
    assert "too much memory" in said or "took more than" in said
    assert use("calculate", expression="1 + 1") == {"value": 2}


def test_sql_that_fails_on_a_value_does_not_quote_it():
    unit = Unit(Row({"text": "canary-in-row", "stars": 1, "tags": []}, SCHEMA))
    said = use("query_row", unit, query="SELECT CAST(text AS INTEGER) FROM row_inputs")
    assert "canary" not in said
    assert "raised ValueError" in said


def test_rows_of_one_thread_are_not_seen_by_another():
    seen = []

    def ask(number):
        unit = Unit(Row({"text": str(number), "stars": number, "tags": []}, SCHEMA))
        seen.extend(
            use("query_row", unit, query="SELECT stars FROM row_inputs")["rows"][0]["stars"] == number
            for _ in range(6)
        )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 24


def test_no_parameter_that_the_engine_fills_in_is_shown_to_the_model_or_taken_from_it():
    wire = BUILTIN["query_row"].wire["function"]["parameters"]
    assert set(wire["properties"]) == {"query"}
    given = BUILTIN["query_row"].run('{"query":"SELECT 1","tables":{}}', UNIT)
    assert given.error
    assert "tables" in given.content


def test_a_tool_that_reads_tables_tells_the_model_which_and_their_columns(kit):
    agent = Agent(
        kit.map(tools=["lookup_rows"], tables=["codes"]), kit.model, kit.table, (), {"codes": CODES}
    )
    (tool,) = orjson.loads(agent.begin({"text": "a"}).request.body())["tools"]
    assert "Table codes: code (string), meaning (string), n (int64)" in tool["function"]["description"]


def test_a_tool_sees_the_inputs_of_its_own_row_and_no_other_column(kit):
    columns = []

    def look(row: Row) -> str:
        """Look."""
        columns.append(dict(row))
        return "seen"

    from apwa_dask.agents import capabilities

    capabilities.adopt(described(look, name="look_at_row"))
    try:
        agent = kit.agent(tools=["look_at_row"])
        conversation = agent.begin({"text": "mine", "title": "not an input"})
        conversation.feed(Reply(OutcomeClass.OK, "", tool_calls=(ToolCall("c", "look_at_row", "{}"),)))
        conversation.feed_tools(
            [agent.run_tool(call, conversation.unit) for call in conversation.pending_tools]
        )
    finally:
        del capabilities._registry["look_at_row"]
    assert columns == [{"text": "mine"}]
    assert "mine" not in repr(conversation.unit)
