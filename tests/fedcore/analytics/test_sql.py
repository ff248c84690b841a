"""SQL: what can be asked becomes a query; everything else is refused with the reason and the nearest that can."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.analytics.columns import Column
from fedcore.analytics.condition import Both, Compare, Not
from fedcore.analytics.query import Query
from fedcore.analytics.sql import parse, parse_condition
from fedcore.errors import JobError

HOSTILE = 'x"; DROP TABLE lung; --'
CATALOGUE = {
    "lung": {
        "sex": Column("text"),
        "age": Column("number", "years"),
        "time": Column("number"),
        "dead": Column("flag"),
        "seen": Column("date"),
        HOSTILE: Column("number"),
    },
    "other": {"sex": Column("text")},
}
START = Query("lung")


def test_the_example_of_the_readme_is_a_query() -> None:
    found = parse("SELECT sex, count(*), avg(age), quantile(time, 0.5) FROM lung GROUP BY sex", CATALOGUE)
    assert found == START.group_by("sex").count().mean("age").quantile("time", 0.5)


@pytest.mark.parametrize(
    ("sql", "query"),
    [
        ("select COUNT(*) from LUNG", START.count()),
        ("SELECT count(age), sum(age) AS years FROM lung", START.count("age").sum("age", label="years")),
        ("SELECT var_samp(age), stddev_samp(time) FROM lung", START.variance("age").stddev("time")),
        ("SELECT median(age) FROM lung AS l", START.quantile("age", 0.5)),
        (
            "SELECT percentile_cont(0.25) WITHIN GROUP (ORDER BY age) FROM lung",
            START.quantile("age", 0.25),
        ),
        ("SELECT avg(l.age) FROM lung l WHERE l.sex = 'f'", START.where("sex", "=", "f").mean("age")),
        ("SELECT count(*) FROM lung WHERE 60 < age", START.where("age", ">", 60).count()),
        ("SELECT count(*) FROM lung WHERE age > -1.5e1", START.where("age", ">", -15.0).count()),
        ("SELECT count(*) FROM lung WHERE dead = TRUE", START.where("dead", "=", True).count()),
        (
            "SELECT count(*) FROM lung WHERE seen >= DATE '2024-05-31'",
            START.where("seen", ">=", "2024-05-31").count(),
        ),
        (
            "SELECT count(*) FROM lung WHERE age BETWEEN 40 AND 60 AND sex IN ('f', 'm')",
            START.where("age", "between", [40, 60]).where("sex", "in", ["f", "m"]).count(),
        ),
        (
            "SELECT count(*) FROM lung WHERE age IS NOT NULL OR NOT (sex = 'f' AND time < 9)",
            START.where(
                Both(
                    "or",
                    (
                        Compare("age", "is not null"),
                        Not(Both("and", (Compare("sex", "=", ("f",)), Compare("time", "<", (9,))))),
                    ),
                )
            ).count(),
        ),
        ("SELECT min(age), max(time) FROM lung", START.min("age").max("time")),
        (
            "SELECT avg(clamp(age, 0, 120)), var_samp(clamp(age, -1.5, 99)) FROM lung",
            START.mean("age", (0, 120)).variance("age", (-1.5, 99)),
        ),
        (
            "SELECT quantile(clamp(time, 0, 1000), 0.9, 10), max(clamp(time, 0, 9)) FROM lung",
            START.quantile("time", 0.9, (0, 1000), width=10).max("time", (0, 9)),
        ),
        (
            "SELECT median(clamp(age, 0, 9)), quantile_cont(age, 0.1) FROM lung",
            START.quantile("age", 0.5, (0, 9)).quantile("age", 0.1),
        ),
        (
            "SELECT percentile_cont(0.2) WITHIN GROUP (ORDER BY clamp(age, 0, 9)) FROM lung",
            START.quantile("age", 0.2, (0, 9)),
        ),
        (
            "SELECT histogram(age, 0, 40, 60.5) AS h FROM lung",
            START.histogram("age", [0, 40, 60.5], label="h"),
        ),
        ("SELECT sex, dead, count(*) FROM lung GROUP BY sex, dead", START.group_by("sex", "dead").count()),
    ],
)
def test_what_can_be_asked(sql: str, query: Query) -> None:
    assert parse(sql, CATALOGUE) == query


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT * FROM lung", "would show rows"),
        ("SELECT lung.* FROM lung", "would show rows"),
        ("SELECT age FROM lung", "GROUP BY age, or avg"),
        ("SELECT sex, count(*) FROM lung", "GROUP BY sex"),
        ("SELECT sex FROM lung GROUP BY sex", r"add count\(\*\)"),
        ("SELECT count(*) FROM lung JOIN other ON lung.sex = other.sex", "JOINS cannot .* ask one table"),
        ("SELECT count(*) FROM lung, other", "ask one table"),
        ("SELECT count(*) FROM (SELECT * FROM lung)", "subquery"),
        ("SELECT (SELECT 1) FROM lung", "subquery"),
        ("SELECT count(*) FROM lung WHERE age > (SELECT avg(age) FROM lung)", "as a value|subquery"),
        ("SELECT count(*) FROM lung WHERE sex IN (SELECT sex FROM other)", "subquery"),
        ("SELECT count(*) FROM lung WHERE EXISTS (SELECT 1 FROM other)", "subquery"),
        ("WITH a AS (SELECT 1) SELECT count(*) FROM lung", "subquery"),
        ("SELECT sum(age) OVER (PARTITION BY sex) FROM lung", "window"),
        ("SELECT count(*) FROM lung LIMIT 3", "every group"),
        ("SELECT sex, count(*) FROM lung GROUP BY sex HAVING count(*) > 3", "filter the result"),
        ("SELECT sex, count(*) FROM lung GROUP BY sex ORDER BY sex", "sort the result"),
        ("SELECT DISTINCT count(*) FROM lung", "distinct"),
        ("SELECT count(DISTINCT sex) FROM lung", "DISTINCT"),
        ("SELECT sum(DISTINCT age) FROM lung", "DISTINCT"),
        ("SELECT avg(clamp(age, 0)) FROM lung", r"allowed: clamp\(column, low, high\)"),
        ("SELECT avg(clamp(age, 9, 0)) FROM lung", "low below high"),
        ("SELECT avg(clamp(age, 'a', 9)) FROM lung", "clamp: 'a'; allowed: a number"),
        ("SELECT avg(clamp(age + 1, 0, 9)) FROM lung", "expressions on rows"),
        ("SELECT clamp(age, 0, 9) FROM lung", "not answered"),
        ("SELECT count(clamp(age, 0, 9)) FROM lung", "none for a count"),
        ("SELECT histogram(clamp(age, 0, 9), 1, 2) FROM lung", "none for a count or histogram"),
        ("SELECT histogram(age, 3) FROM lung", "1 edges; allowed: 2 to 1000"),
        ("SELECT histogram() FROM lung", "needs a column"),
        ("SELECT quantile(age) FROM lung", r"allowed: quantile\(column, q\)"),
        ("SELECT quantile(age, 0.5, 1, 2) FROM lung", r"allowed: quantile\(column, q\)"),
        ("SELECT quantile(age, 0.5, -1) FROM lung", "width -1.0; allowed: above 0"),
        ("SELECT min(age, 3) FROM lung", "in MIN"),
        ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY age DESC) FROM lung", "one column, rising"),
        ("SELECT var_pop(age) FROM lung", "var_samp"),
        ("SELECT avg(age + 1) FROM lung", "expressions on rows"),
        ("SELECT avg(age) + 1 FROM lung", "compute it from the result"),
        ("SELECT avg(age) FILTER (WHERE sex = 'f') FROM lung", "SELECT"),
        ("SELECT avrg(age) FROM lung", 'did you mean "avg"'),
        ("SELECT read_csv('/etc/passwd') FROM lung", "not answered"),
        ("SELECT getenv('HOME') FROM lung", "not answered"),
        ("SELECT count(*) FROM read_parquet('/etc/passwd')", "catalogue only"),
        ("SELECT count(*) FROM '/etc/passwd'", "no data set|catalogue"),
        ("SELECT count(*) FROM main.lung", "without a schema"),
        ("SELECT count(*) FROM lungs", 'did you mean "lung"'),
        ("SELECT avg(ages) FROM lung", 'lung has no column "ages": did you mean "age"'),
        ("SELECT avg(other.sex) FROM lung", "columns of lung"),
        ("SELECT avg(sex) FROM lung", "needs numbers"),
        ("SELECT count(*) FROM lung WHERE sex = 3", "sex holds text"),
        ("SELECT count(*) FROM lung WHERE age = '60'", "age holds number"),
        ("SELECT count(*) FROM lung WHERE seen = 'yesterday'", "as 2024-05-31"),
        ("SELECT count(*) FROM lung WHERE dead > FALSE", "no order"),
        ("SELECT count(*) FROM lung WHERE age = NULL", "IS NULL"),
        ("SELECT count(*) FROM lung WHERE age = time", "compares a column with values"),
        ("SELECT count(*) FROM lung WHERE sex LIKE 'a%'", "IN with the values"),
        ("SELECT count(*) FROM lung WHERE 1 = 1", "in WHERE"),
        ("SELECT count(*) FROM lung WHERE TRUE", "in WHERE"),
        ("SELECT count(*) FROM lung WHERE age > 1e999", "finite"),
        ("SELECT count(*) FROM lung WHERE age > ?", "as a value"),
        ("SELECT quantile(age, 1.5) FROM lung", "below 1"),
        ("SELECT quantile(age, 'a') FROM lung", "below 1"),
        ("SELECT count(*) FROM lung GROUP BY age", "makes no keys"),
        ("SELECT count(*) FROM lung GROUP BY 1", "name the column"),
        ("SELECT count(*) FROM lung GROUP BY ROLLUP (sex)", "totals"),
        ("SELECT count(*), count(*) FROM lung", "asked twice"),
        ("SELECT count(*) FROM lung UNION SELECT count(*) FROM other", "two questions"),
        ("SELECT count(*) FROM lung; DROP TABLE lung", "2 statements"),
        ("DROP TABLE lung", "only reads"),
        ("COPY lung TO '/tmp/x'", "only reads"),
        ("ATTACH '/tmp/x'", "only reads"),
        ("PRAGMA version", "only reads"),
        ("SELECT count(*)", "no FROM"),
        ("SELEC count(*) FROM lung", "no SQL|only reads"),
        ("", "no SQL"),
        ("SELECT count(*) FROM lung WHERE " + "(" * 3000 + "age = 1" + ")" * 3000, "nested|no SQL"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(sql: str, words: str) -> None:
    with pytest.raises(JobError, match=words):
        parse(sql, CATALOGUE)


def test_a_hostile_name_is_a_name() -> None:
    quoted = HOSTILE.replace('"', '""')
    assert parse(f'SELECT avg("{quoted}") FROM lung', CATALOGUE) == START.mean(HOSTILE)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40))
def test_a_literal_is_a_value_whatever_it_holds(text: str) -> None:
    sql = "SELECT count(*) FROM lung WHERE sex = '{}'".format(text.replace("'", "''"))
    assert parse(sql, CATALOGUE) == START.where("sex", "=", text).count()


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=40))
def test_a_quoted_name_is_a_column_or_refused(name: str) -> None:
    sql = 'SELECT count("{}") FROM lung'.format(name.replace('"', '""'))
    if name in CATALOGUE["lung"]:
        assert parse(sql, CATALOGUE) == START.count(name)
    else:
        with pytest.raises(JobError, match="no column"):
            parse(sql, CATALOGUE)


@given(st.text(max_size=200))
def test_any_text_is_a_query_or_refused(text: str) -> None:
    with contextlib.suppress(JobError):
        assert isinstance(parse(text, CATALOGUE), Query)


def test_a_condition_of_many_values_is_one_list() -> None:
    many = " OR ".join(f"age = {value}" for value in range(300))
    found = parse(f"SELECT count(*) FROM lung WHERE {many}", CATALOGUE)
    assert isinstance(found.condition, Both) and len(found.condition.parts) == 300


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("AGE > 60", Compare("age", ">", (60,))),
        ("lung.sex = 'f' -- women", Compare("sex", "=", ("f",))),
        (
            "(dead = TRUE) AND age IS NULL",
            Both("and", (Compare("dead", "=", (True,)), Compare("age", "is null"))),
        ),
        ("(age > 1) OR (age < 3)", Both("or", (Compare("age", ">", (1,)), Compare("age", "<", (3,))))),
    ],
)
def test_a_text_after_where_is_a_condition(text: str, condition: object) -> None:
    assert parse_condition(text, "lung", CATALOGUE["lung"]) == condition


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no condition"),
        ("  ", "no condition"),
        ("aeg > 60", 'no column "aeg": did you mean "age"'),
        ("age > 'x'", "age holds number"),
        ("other.sex = 'f'", "columns of lung"),
        ("age > 1) GROUP BY (sex", "more than a condition"),
        ("age > 1) OR (age < 3", "more than a condition"),
        ("age > 1) LIMIT (3", "more than a condition"),
        ("age > 1) UNION (SELECT 1", "no SQL|cannot be answered"),
        ("age > 1); DROP TABLE lung; --", "no SQL|statements"),
        ("age > 1 /*", "no SQL"),
        ("age > (SELECT 1)", "as a value|subquery"),
        ("1 = 1", "in WHERE"),
        ("age > " + "9" * 20_000, "no SQL"),
    ],
)
def test_a_text_that_is_no_condition_is_refused(text: str, words: str) -> None:
    with pytest.raises(JobError, match=words):
        parse_condition(text, "lung", CATALOGUE["lung"])


@given(st.text(max_size=100))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    with contextlib.suppress(JobError):
        assert START.where(parse_condition(text, "lung", CATALOGUE["lung"])).condition is not None
