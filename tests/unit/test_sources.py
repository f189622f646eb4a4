"""Sources give every item once, from whichever cursor they are read on."""

import csv
import gc
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobkit import ProgressTask, codec
from jobkit.errors import JobkitError
from jobkit.sources import (
    Resumable,
    SourceError,
    csv_rows,
    json_lines,
    pages,
    rows,
)
from jobkit.verdicts import Verdict, classify


def places(source: Resumable[Any]) -> list[tuple[Any, Any]]:
    """Every item, with the cursor that is told after it."""
    reading = source(None)
    return [(item, reading.cursor) for item in reading]


def check_resumable(source: Resumable[Any], expected: list[Any]) -> None:
    """From each cursor, also from a stored one, exactly the rest is read."""
    seen = places(source)

    assert [item for item, _ in seen] == expected
    assert source(None).cursor is None
    for done, (_, cursor) in enumerate(seen, 1):
        stored = codec.loads(codec.dumps(cursor))
        assert list(source(stored)) == expected[done:]


def handles(path: Path) -> int:
    """How often this process has the file open now."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(os.path.realpath(link) == str(path.resolve()) for link in links)


# -- pages ------------------------------------------------------------------------


class Api:
    """Hands out pages, by tokens that are texts, and remembers what was fetched."""

    def __init__(self, *contents: list[str], last: Any = None) -> None:
        self.contents = contents
        self.last = last
        self.fetched: list[Any] = []

    def __call__(self, token: str | None) -> tuple[list[str], Any]:
        self.fetched.append(token)
        number = int(token.removeprefix("page ")) if token else 0
        at_end = number + 1 == len(self.contents)
        following = self.last if at_end else f"page {number + 1}"
        return self.contents[number], following


def test_pages_are_read_on_from_every_item() -> None:
    api = Api(["a", "b"], ["c"], [], ["d", "e", "f"])

    check_resumable(pages(api), ["a", "b", "c", "d", "e", "f"])


def test_a_page_is_fetched_when_its_first_item_is_asked_for() -> None:
    api = Api(["a", "b"], ["c"])
    items = iter(pages(api)(None))

    assert api.fetched == []
    assert list(islice(items, 2)) == ["a", "b"]
    assert api.fetched == [None]
    assert next(items) == "c"
    assert api.fetched == [None, "page 1"]


def test_inside_a_page_that_page_is_fetched_again() -> None:
    api = Api(["a", "b"], ["c", "d"])
    reading = pages(api)(None)
    for item in reading:
        if item == "c":
            break
    api.fetched.clear()

    assert reading.cursor == ("page 1", 1)
    assert list(pages(api)(reading.cursor)) == ["d"]
    assert api.fetched == ["page 1"]


def test_a_page_that_is_done_is_not_fetched_again() -> None:
    api = Api(["a", "b"], ["c", "d"])
    reading = pages(api)(None)
    for item in reading:
        if item == "b":
            break
    api.fetched.clear()

    assert list(pages(api)(reading.cursor)) == ["c", "d"]
    assert api.fetched == ["page 1"]


def test_what_was_added_to_the_last_page_is_read_on() -> None:
    last = ["c"]
    api = Api(["a", "b"], last)
    *_, (_, cursor) = places(pages(api))
    last.append("d")

    assert list(pages(api)(cursor)) == ["d"]


@pytest.mark.parametrize("last", [None, ""], ids=repr)
def test_pages_end_without_a_token(last: str | None) -> None:
    api = Api(["a"], ["b"], last=last)

    assert list(pages(api)(None)) == ["a", "b"]
    assert api.fetched == [None, "page 1"]


def test_a_page_may_be_any_iterable() -> None:
    source = pages(lambda _: (iter("abc"), None))

    check_resumable(source, ["a", "b", "c"])


def test_a_page_that_names_itself_as_the_next_is_refused() -> None:
    api = Api(["a"], ["b"], last="page 1")

    with pytest.raises(SourceError, match="page 'page 1' names itself as the next"):
        list(pages(api)(None))


# -- files --------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders"


def dicts(*values: tuple[Any, ...], names: str = "id name") -> list[dict[str, Any]]:
    return [dict(zip(names.split(), row, strict=True)) for row in values]


FILES: list[tuple[str, bytes, list[dict[str, Any]]]] = [
    ("plain", b"id,name\n1,Ann\n2,Bo\n", dicts(("1", "Ann"), ("2", "Bo"))),
    ("windows", b"id,name\r\n1,Ann\r\n2,Bo\r\n", dicts(("1", "Ann"), ("2", "Bo"))),
    ("no last line end", b"id,name\n1,Ann\n2,Bo", dicts(("1", "Ann"), ("2", "Bo"))),
    ("with a mark", b"\xef\xbb\xbfid,name\n1,Ann\n", dicts(("1", "Ann"))),
    (
        "blank lines",
        b"id,name\n\n1,Ann\n\n\n2,Bo\n\n",
        dicts(("1", "Ann"), ("2", "Bo")),
    ),
    (
        "line ends in quotes",
        b'id,name\n1,"Ann\nLee"\n2,"B\r\n\r\no"\n3,"\n"\n',
        dicts(("1", "Ann\nLee"), ("2", "B\r\n\r\no"), ("3", "\n")),
    ),
    (
        "wide characters",
        "id,name\n1,Zoë\n2,\u2028東京\n3,🙂\n".encode(),
        dicts(("1", "Zoë"), ("2", "\u2028東京"), ("3", "🙂")),
    ),
    ("names in quotes", b'"i\nd",name\n1,Ann\n', [{"i\nd": "1", "name": "Ann"}]),
    ("only names", b"id,name\n", []),
    ("empty", b"", []),
]


@pytest.mark.parametrize(
    ("content", "expected"),
    [case[1:] for case in FILES],
    ids=[case[0] for case in FILES],
)
def test_csv_rows_are_read_on_from_every_row(
    path: Path, content: bytes, expected: list[dict[str, Any]]
) -> None:
    path.write_bytes(content)

    check_resumable(csv_rows(path), expected)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
)
def test_whatever_the_csv_module_writes_is_read_on(
    path: Path, table: list[tuple[str, str]], line_end: str, mark: bool
) -> None:
    encoding = "utf-8-sig" if mark else "utf-8"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "name"), *table])

    check_resumable(csv_rows(path), dicts(*table))


def test_csv_options_are_those_of_a_dict_reader(path: Path) -> None:
    path.write_bytes(b"1;'a;b';more\n2\n")
    source = csv_rows(
        path,
        fieldnames=["id", "name"],
        restkey="rest",
        restval="?",
        delimiter=";",
        quotechar="'",
    )

    check_resumable(
        source,
        [{"id": "1", "name": "a;b", "rest": ["more"]}, {"id": "2", "name": "?"}],
    )


def test_csv_may_have_another_encoding(path: Path) -> None:
    path.write_bytes("id,name\n1,Zoë\n2,Bo\n".encode("latin-1"))

    check_resumable(
        csv_rows(path, encoding="latin-1"), dicts(("1", "Zoë"), ("2", "Bo"))
    )


def test_a_resumed_csv_does_not_read_what_is_done(path: Path) -> None:
    path.write_bytes(b"id,name\n" + b"7,\xff\n" * 3 + b"8,Bo\n")
    offset = path.stat().st_size - len(b"8,Bo\n")

    assert list(csv_rows(path)((offset, 3))) == dicts(("8", "Bo"))


def test_a_csv_row_that_is_not_in_its_encoding_is_named(path: Path) -> None:
    path.write_bytes(b"id,name\n1,Ann\n2,Zo\xeb\n")

    with pytest.raises(
        SourceError, match=rf"{re.escape(str(path))}: the row after row 1 .*utf-8"
    ):
        list(csv_rows(path)(None))


def test_a_csv_row_that_breaks_the_format_is_named(path: Path) -> None:
    path.write_bytes(b'id,name\n1,Ann\n2,"B"o\n')

    with pytest.raises(SourceError, match=r"orders: the row after row 1 .*expected"):
        list(csv_rows(path, strict=True)(None))


LINES = [
    ("plain", b'{"id": 1}\n[2, 3]\n"x"\n', [{"id": 1}, [2, 3], "x"]),
    ("blank lines", b'\n{"id": 1}\n  \r\n\n2\n\n', [{"id": 1}, 2]),
    ("windows", b"1\r\n2\r\n", [1, 2]),
    ("no last line end", b"1\n2", [1, 2]),
    ("with a mark", b"\xef\xbb\xbf1\n2\n", [1, 2]),
    ("null", b"null\nfalse\n", [None, False]),
    ("wide characters", '"Zoë"\n"東京\u2028"\n'.encode(), ["Zoë", "東京\u2028"]),
    ("empty", b"", []),
]


@pytest.mark.parametrize(
    ("content", "expected"),
    [case[1:] for case in LINES],
    ids=[case[0] for case in LINES],
)
def test_json_lines_are_read_on_from_every_value(
    path: Path, content: bytes, expected: list[Any]
) -> None:
    path.write_bytes(content)

    check_resumable(json_lines(path), expected)


@pytest.mark.parametrize("line", [b'{"id": 3', b"\xff", b"1 2"], ids=repr)
def test_a_malformed_line_is_named_also_after_a_resume(path: Path, line: bytes) -> None:
    path.write_bytes(b"1\n\n2\n" + line + b"\n4\n")
    items = json_lines(path)(None)

    with pytest.raises(SourceError, match=rf"{re.escape(str(path))}, line 4"):
        list(items)
    with pytest.raises(SourceError, match=rf"{re.escape(str(path))}, line 4"):
        list(json_lines(path)(items.cursor))


def test_json_lines_keep_the_types_of_json(path: Path) -> None:
    value = {"id": 1, "cents": 2.5, "tags": ["a", None, True], "empty": {}}
    path.write_text(json.dumps(value) + "\n")

    assert list(json_lines(path)(None)) == [value]


READERS = [csv_rows, json_lines]


def write_numbers(path: Path, count: int) -> None:
    # JSON as well as CSV; the first line is the names of the one, an item of the other.
    path.write_bytes(b"".join(b"%d\n" % (1000 + number) for number in range(count)))


@pytest.mark.parametrize("reader", READERS)
def test_what_was_appended_meanwhile_is_read_on(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 3)
    *_, (_, cursor) = places(reader(path))
    write_numbers(path, 4)

    assert len(list(reader(path)(cursor))) == 1


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_was_cut_is_refused(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 5)
    *_, (_, cursor) = places(reader(path))
    write_numbers(path, 3)

    with pytest.raises(SourceError, match=r"has 15 bytes, .* after byte 25: .* cut"):
        list(reader(path)(cursor))


@pytest.mark.parametrize("reader", READERS)
def test_a_file_with_other_lines_is_refused(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 5)
    cursor = places(reader(path))[1][1]
    path.write_bytes(b"100000\n" * 5)

    with pytest.raises(SourceError, match=r"orders was changed: .* not at the end"):
        list(reader(path)(cursor))


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_open_only_while_it_is_read(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 5)
    reading = reader(path)(None)
    assert handles(path) == 0
    items = iter(reading)
    next(items)
    assert handles(path) == 1
    list(items)
    assert handles(path) == 0


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_closed_when_the_reading_is(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 5)
    reading = reader(path)(None)
    reading.close()
    items = iter(reading)
    next(items)

    reading.close()
    reading.close()
    assert handles(path) == 0


@pytest.mark.parametrize("reader", READERS)
def test_a_file_is_closed_when_nobody_reads_on(
    path: Path, reader: Callable[[Path], Resumable[Any]]
) -> None:
    write_numbers(path, 5)
    gc.disable()
    try:
        for _ in reader(path)(None):
            break
        assert handles(path) == 0
    finally:
        gc.enable()


def test_a_reading_that_is_gone_through_again_goes_on(path: Path) -> None:
    write_numbers(path, 5)
    reading = json_lines(path)(None)

    assert list(islice(reading, 2)) == [1000, 1001]
    assert list(reading) == [1002, 1003, 1004]


@pytest.mark.parametrize(
    "source",
    [pages(Api([])), csv_rows(__file__), json_lines(__file__)],
    ids=["pages", "csv_rows", "json_lines"],
)
def test_a_cursor_of_another_source_is_refused(source: Resumable[Any]) -> None:
    with pytest.raises(
        SourceError, match=r"cursor 17 is not one of \w+: the stage was"
    ):
        list(source(17))


# -- tables -------------------------------------------------------------------------


class Driver:
    """A sqlite3 connection whose placeholders are written as other drivers' are."""

    def __init__(self, connection: sqlite3.Connection, style: str) -> None:
        self._connection = connection
        self._style = style

    def cursor(self) -> Any:
        return DriverCursor(self._connection.cursor(), self._style)


class DriverCursor:
    def __init__(self, cursor: sqlite3.Cursor, style: str) -> None:
        self._cursor = cursor
        self._style = style

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, params: Any) -> Any:
        match self._style:
            case "format":
                sql %= ("?",) * len(params)
            case "pyformat":
                sql %= {name: f":{name}" for name in params}
            case "numeric":
                sql = re.sub(r":(\d+)", r"?\1", sql)
        return self._cursor.execute(sql, params)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, shop, cents)")
        connection.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)",
            [(3 * number, f"shop {number % 3}", number) for number in range(1, 13)],
        )
        yield connection


def orders(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"id": 3 * number, "shop": f"shop {number % 3}", "cents": number}
        for number in numbers
    ]


@pytest.mark.parametrize("batch", [1, 3, 4, 11, 12, 13, 1000])
def test_rows_are_read_on_from_every_row(
    database: sqlite3.Connection, batch: int
) -> None:
    source = rows(database, "SELECT * FROM orders", batch=batch)

    check_resumable(source, orders(*range(1, 13)))


STYLES: list[tuple[Any, str, Any]] = [
    ("qmark", "SELECT * FROM orders WHERE shop = ? AND cents > ?", ("shop 1", 1)),
    ("format", "SELECT * FROM orders WHERE shop = %s AND cents > %s", ["shop 1", 1]),
    ("numeric", "SELECT * FROM orders WHERE shop = :1 AND cents > :2", ("shop 1", 1)),
    (
        "named",
        "SELECT * FROM orders WHERE shop = :shop AND cents > :least",
        {"shop": "shop 1", "least": 1},
    ),
    (
        "pyformat",
        "SELECT * FROM orders WHERE shop = %(shop)s AND cents > %(least)s",
        {"shop": "shop 1", "least": 1},
    ),
]


@pytest.mark.parametrize(
    ("style", "query", "params"), STYLES, ids=[style for style, *_ in STYLES]
)
def test_every_style_of_placeholders_is_spoken(
    database: sqlite3.Connection, style: Any, query: str, params: Any
) -> None:
    driver = Driver(database, style)
    source = rows(driver, query, batch=2, params=params, paramstyle=style)

    check_resumable(source, orders(4, 7, 10))


@pytest.mark.parametrize("style", [style for style, *_ in STYLES])
def test_a_query_needs_no_values_of_its_own(
    database: sqlite3.Connection, style: Any
) -> None:
    driver = Driver(database, style)
    query = "SELECT * FROM orders WHERE shop LIKE '%1' -- of one shop"
    written = query.replace("%", "%%") if style in {"format", "pyformat"} else query
    source = rows(driver, written, batch=2, paramstyle=style)

    check_resumable(source, orders(1, 4, 7, 10))


@pytest.mark.parametrize(
    ("style", "params"),
    [("qmark", {"shop": 1}), ("format", {"a": 1}), ("named", [1]), ("pyformat", (1,))],
)
def test_values_have_to_fit_the_style(
    database: sqlite3.Connection, style: Any, params: Any
) -> None:
    with pytest.raises(SourceError, match=rf"paramstyle '{style}' the params are a"):
        rows(database, "SELECT * FROM orders", params=params, paramstyle=style)


def test_an_unknown_style_is_refused(database: sqlite3.Connection) -> None:
    style: Any = "dollar"

    with pytest.raises(SourceError, match=r"no paramstyle 'dollar'; there are qmark, "):
        rows(database, "SELECT * FROM orders", paramstyle=style)


def test_rows_may_be_ordered_by_another_key(database: sqlite3.Connection) -> None:
    query = "SELECT shop || ' ' || id AS name FROM orders WHERE cents < 4;"
    source = rows(database, query, key="name", batch=2)

    names = ["shop 0 9", "shop 1 3", "shop 2 6"]
    check_resumable(source, [{"name": name} for name in names])


def test_rows_may_come_as_mappings(database: sqlite3.Connection) -> None:
    database.row_factory = lambda cursor, row: {
        column[0]: value for column, value in zip(cursor.description, row, strict=True)
    }

    check_resumable(
        rows(database, "SELECT * FROM orders", batch=5), orders(*range(1, 13))
    )


def test_rows_that_come_behind_the_cursor_are_read(
    database: sqlite3.Connection,
) -> None:
    items = iter(rows(database, "SELECT id FROM orders", batch=4)(None))
    first = [next(items)["id"] for _ in range(3)]
    database.execute("INSERT INTO orders VALUES (100, 'new', 1), (1, 'before', 1)")
    database.execute("DELETE FROM orders WHERE id IN (9, 12, 15, 18)")

    assert first + [row["id"] for row in items] == [
        3,
        6,
        9,
        12,
        21,
        *range(24, 37, 3),
        100,
    ]


def test_a_batch_is_read_when_its_first_row_is_asked_for(
    database: sqlite3.Connection,
) -> None:
    sent: list[str] = []
    database.set_trace_callback(sent.append)
    items = iter(rows(database, "SELECT * FROM orders", batch=6)(None))

    assert sent == []
    assert len(list(islice(items, 6))) == 6
    assert len(sent) == 1
    assert len(list(items)) == 6
    assert len(sent) == 2


@pytest.mark.parametrize("key", ["", "id; DROP TABLE orders", "orders.id", "1", 'i"d'])
def test_a_key_is_the_plain_name_of_a_column(
    database: sqlite3.Connection, key: str
) -> None:
    with pytest.raises(SourceError, match="not the plain name of one column"):
        rows(database, "SELECT * FROM orders", key=key)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_items(database: sqlite3.Connection, batch: int) -> None:
    with pytest.raises(SourceError, match="at least 1 item"):
        rows(database, "SELECT * FROM orders", batch=batch)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_items_that_share_a_key_are_refused_wherever_a_batch_ends(
    database: sqlite3.Connection, batch: int
) -> None:
    database.execute("UPDATE orders SET cents = 5 WHERE cents = 4")
    source = rows(database, "SELECT * FROM orders", key="cents", batch=batch)

    with pytest.raises(SourceError, match="have the key 5: items would be lost"):
        list(source(None))


def test_a_key_that_is_null_is_refused(database: sqlite3.Connection) -> None:
    database.execute("UPDATE orders SET cents = NULL WHERE cents = 4")

    with pytest.raises(SourceError, match="is NULL"):
        list(rows(database, "SELECT * FROM orders", key="cents")(None))


def test_a_key_that_is_not_in_the_result_is_named(
    database: sqlite3.Connection,
) -> None:
    source = rows(database, "SELECT id AS ID, shop FROM orders")

    with pytest.raises(SourceError, match=r"no column 'id'; it has \['ID', 'shop'\]"):
        list(source(None))


# -- Django -------------------------------------------------------------------------

DJANGO = """
import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[],
)
django.setup()

from django.db import connection, models
from django.test.utils import CaptureQueriesContext
from jobkit.sources import SourceError, queryset

class Order(models.Model):
    shop = models.TextField()
    code = models.IntegerField()

    class Meta:
        app_label = "orders"
        ordering = ["-code"]

with connection.schema_editor() as editor:
    editor.create_model(Order)
Order.objects.bulk_create(
    Order(id=3 * n, shop=f"shop {n % 2}", code=100 - n) for n in range(1, 13)
)

def check(source, place, expected):
    reading = source(None)
    seen = [(place(item), reading.cursor) for item in reading]
    assert [item for item, _ in seen] == expected, seen
    for done, (_, cursor) in enumerate(seen, 1):
        assert [place(item) for item in source(cursor)] == expected[done:]

ids = [3 * n for n in range(1, 13)]
for batch in (1, 4, 5, 12, 100):
    check(queryset(Order.objects.all(), batch=batch), lambda order: order.pk, ids)
odd = Order.objects.filter(shop="shop 1")
check(queryset(odd, batch=2), lambda order: order.id, ids[::2])
check(queryset(odd, key="code", batch=4), lambda order: order.id, ids[::2][::-1])
check(queryset(odd.values("id"), key="id", batch=4), lambda row: row["id"], ids[::2])

with CaptureQueriesContext(connection) as queries:
    source = queryset(Order.objects.all(), batch=6)
    items = iter(source(None))
    assert len(queries) == 0
    next(items)
    assert len(queries) == 1
    list(items)
    assert len(queries) == 2

try:
    list(queryset(Order.objects.all(), key="shop")(None))
except SourceError as error:
    print(error)
"""


def test_a_django_queryset_is_read_on_from_every_object() -> None:
    pytest.importorskip("django", reason="Django is not installed: pip install django")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Two items have the key 'shop 0'" in done.stdout


# -- in a job -----------------------------------------------------------------------


def test_no_retry_mends_a_source() -> None:
    error = SourceError("the file was cut")

    assert isinstance(error, JobkitError)
    assert classify(error, {}) == (Verdict.permanent, None)


class StopError(Exception):
    """Ends a task in the middle of its items."""


def test_a_task_reads_a_source_without_a_cursor_of_its_own(
    path: Path, make_app: Callable[..., Celery]
) -> None:
    write_numbers(path, 1000)
    app = make_app(task_always_eager=True)
    stops = iter([1, 400, 999])
    seen: list[int] = []

    @app.task(
        base=ProgressTask,
        bind=True,
        stages=["read"],
        retry_policy={"verdicts": {StopError: "transient"}, "base": 0},
    )
    def read(self: Any) -> None:
        stop = next(stops, None)
        with self.stage("read", total=1000) as stage:
            for item in stage.iterate(json_lines(path)):
                if item - 1000 == stop:
                    raise StopError
                seen.append(item)

    read.delay().get()

    assert seen == list(range(1000, 2000))
    assert handles(path) == 0
