"""Sources of items that can be read on from a cursor: pages, files and tables.

A source is a callable: given the saved cursor (None at first), it returns the
items after it. What the functions here return is read by
``stage.iterate(source)`` without a ``cursor=`` of one's own.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, Generic, Literal, TypeVar

from jobkit.errors import Permanent

T = TypeVar("T")
ParamStyle = Literal["qmark", "format", "numeric", "named", "pyformat"]

BOM = b"\xef\xbb\xbf"
"""The three bytes that some programs write in front of UTF-8."""


class SourceError(Permanent):
    """A source cannot be read, or not be read on; no retry will mend it."""


class Reading(Generic[T]):
    """Items on their way out of a source, to be gone through once.

    ``cursor`` is the place right after the last item that was given out.
    """

    def __init__(self, cursor: Any) -> None:
        self.cursor = cursor

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is open; nothing can be read afterwards."""


Resumable = Callable[[Any], Reading[T]]


def pages(fetch: Callable[[Any], tuple[Iterable[T], Any]]) -> Resumable[T]:
    """Go through the items of an API that hands out pages.

    ``fetch(token)`` returns the items of a page and the token of the next one;
    it is given None for the first page, and returns None (or an empty text) as
    the token after the last. A page is fetched when its first item is asked for;
    after an interruption inside a page that page is fetched again.

    Raises:
        SourceError: While reading: a page names itself as the next one.
    """
    return partial(_Pages, fetch)


def csv_rows(
    path: str | os.PathLike[str], *, encoding: str = "utf-8", **csv_options: Any
) -> Resumable[dict[Any, Any]]:
    r"""Go through the rows of a CSV file as dicts, from where the last run was.

    The first row has the names, unless ``fieldnames`` gives them. Options are
    those of ``csv.DictReader``. Rows end with ``\n`` or ``\r\n``; values in
    quotes may contain line ends.

    Raises:
        SourceError: While reading: a row cannot be read, or the file is not
            the one that the cursor was saved for.
    """
    return partial(_CsvRows, path, encoding, csv_options)


def json_lines(path: str | os.PathLike[str]) -> Resumable[Any]:
    """Go through a file of UTF-8 with one JSON value a line; blank lines are skipped.

    Raises:
        SourceError: While reading: a line is no JSON, or the file is not the
            one that the cursor was saved for.
    """
    return partial(_JsonLines, path)


def rows(
    connection: Any,
    query: str,
    key: str = "id",
    batch: int = 1000,
    params: Sequence[Any] | Mapping[str, Any] = (),
    paramstyle: ParamStyle = "qmark",
) -> Resumable[dict[str, Any]]:
    """Go through the rows of a query as dicts, in the order of a key.

    For databases that know LIMIT, such as PostgreSQL, MySQL and SQLite. Rows
    that are added behind the cursor meanwhile are read too. Nothing is held
    open between two batches.

    Args:
        connection: A DB-API connection.
        query: A SELECT without ORDER BY and LIMIT. In the styles ``format`` and
            ``pyformat`` a percent sign in it is written twice.
        key: A column of its result that is unique and never NULL.
        batch: How many rows are read at a time.
        params: The values for the placeholders in ``query``.
        paramstyle: How placeholders are written; the ``paramstyle`` of the
            database's module. ``%s`` with a sequence of values is ``format``.

    Raises:
        SourceError: An argument is wrong; or, while reading, the key is not in
            the result, is NULL, or is not unique.
    """
    _check_batch(batch)
    table = _Table(connection, query, _checked_key(key), params, paramstyle)
    return partial(_Keyset, table.after, table.key_of, batch)


def queryset(qs: Any, key: str = "pk", batch: int = 2000) -> Resumable[Any]:
    """Go through a Django queryset in the order of a key, a query a batch.

    The queryset's own order is dropped, and it must not be sliced. ``key`` is a
    field that is unique and never NULL; with ``values()`` it has to be one of them.

    Raises:
        SourceError: An argument is wrong; or, while reading, the key is NULL or
            not unique.
    """
    _check_batch(batch)
    ordered = qs.order_by(_checked_key(key))

    def after(cursor: Any, limit: int) -> list[Any]:
        rest = ordered if cursor is None else ordered.filter(**{f"{key}__gt": cursor})
        return list(rest[:limit])

    def key_of(item: Any) -> Any:
        return item[key] if isinstance(item, Mapping) else getattr(item, key)

    return partial(_Keyset, after, key_of, batch)


class _Pages(Reading[T]):
    """The cursor is the token of a page, and how many of its items are done."""

    def __init__(
        self, fetch: Callable[[Any], tuple[Iterable[T], Any]], cursor: Any
    ) -> None:
        super().__init__(cursor)
        self._fetch = fetch

    def __iter__(self) -> Iterator[T]:
        token, done = _pair(self.cursor, (None, 0), "pages")
        while True:
            items, following = self._fetch(token)
            at_end = following is None or following == ""
            if not at_end and following == token:
                raise SourceError(
                    f"The page {token!r} names itself as the next one, which would "
                    "never end: fetch(token) has to return the token of the page "
                    "after it, and None after the last.",
                )
            page = list(items)
            for number, item in enumerate(page[done:], done + 1):
                through = number == len(page) and not at_end
                self.cursor = (following, 0) if through else (token, number)
                yield item
            if at_end:
                return
            token, done = following, 0


class _FileReading(Reading[T]):
    """The cursor is the byte after the last item, and a number for messages.

    The generator refers to this object and not the other way round, so that an
    abandoned one closes its file at once.
    """

    def __init__(self, path: str | os.PathLike[str], cursor: Any) -> None:
        super().__init__(cursor)
        self._path = os.fspath(path)
        self._file: BinaryIO | None = None

    def __iter__(self) -> Iterator[T]:
        with open(self._path, "rb") as self._file:  # noqa: PTH123 - also for str
            yield from self._items(self._file)

    def _items(self, file: BinaryIO) -> Iterator[T]:
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _start(self, file: BinaryIO) -> tuple[int, int]:
        """Go past the byte order mark, if there is one: the place to begin at."""
        if file.read(len(BOM)) == BOM:
            return len(BOM), 0
        file.seek(0)
        return 0, 0

    def _seek(self, file: BinaryIO, offset: int) -> None:
        size = os.fstat(file.fileno()).st_size
        if offset > size:
            raise SourceError(
                f"{self._path} has {size} bytes, and the saved cursor stands after "
                f"byte {offset}: the file was cut or replaced. Put the old one back, "
                "or restart the job.",
            )
        file.seek(offset - 1)
        if file.read(1) != b"\n" and offset != size:
            raise SourceError(
                f"{self._path} was changed: the saved cursor, after byte {offset}, is "
                "not at the end of a line. Put the old file back, or restart the job.",
            )


class _CsvRows(_FileReading[dict[Any, Any]]):
    def __init__(
        self,
        path: str | os.PathLike[str],
        encoding: str,
        options: Mapping[str, Any],
        cursor: Any,
    ) -> None:
        super().__init__(path, cursor)
        self._encoding = encoding
        self._options = options
        self._offset = 0

    def _items(self, file: BinaryIO) -> Iterator[dict[Any, Any]]:
        start = self._start(file)
        place, number = _pair(self.cursor, start, "csv_rows")
        try:
            for row in self._reader(file, start[0], place):
                number += 1
                self.cursor = (self._offset, number)
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(
                f"{self._path}: the row after row {number} cannot be read: {error}.",
            ) from error

    def _reader(self, file: BinaryIO, start: int, place: int) -> csv.DictReader[Any]:
        self._offset = start
        reader = csv.DictReader(self._lines(file), **self._options)
        names = reader.fieldnames  # reads the first row
        if self.cursor is None:
            return reader
        self._seek(file, place)
        self._offset = place
        options = {**self._options, "fieldnames": names}
        return csv.DictReader(self._lines(file), **options)

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        # The csv module asks for the lines of one row and no further, so that
        # the bytes counted here are those of the rows given out.
        for line in file:
            self._offset += len(line)
            yield line.decode(self._encoding)


class _JsonLines(_FileReading[Any]):
    def _items(self, file: BinaryIO) -> Iterator[Any]:
        offset, number = _pair(self.cursor, self._start(file), "json_lines")
        if self.cursor is not None:
            self._seek(file, offset)
        for line in file:
            offset += len(line)
            number += 1
            if not line.isspace():
                value = self._value(line, number)
                self.cursor = (offset, number)
                yield value

    def _value(self, line: bytes, number: int) -> Any:
        try:
            return json.loads(line.decode())
        except ValueError as error:
            raise SourceError(
                f"{self._path}, line {number}, is no JSON value: {error}. Mend the "
                "line, and replay the job.",
            ) from error


class _Keyset(Reading[T]):
    """The cursor is the key of the last item.

    ``after(cursor, limit)`` reads so many items at most whose key is greater.
    """

    def __init__(
        self,
        after: Callable[[Any, int], list[T]],
        key_of: Callable[[T], Any],
        batch: int,
        cursor: Any,
    ) -> None:
        super().__init__(cursor)
        self._after = after
        self._key_of = key_of
        self._batch = batch

    def __iter__(self) -> Iterator[T]:
        more = True
        while more:
            # One item too many: it tells whether there is another batch, and
            # whether two items that share a key would be torn apart.
            items = self._after(self.cursor, self._batch + 1)
            keys = [self._key_of(item) for item in items]
            _check_keys(keys)
            more = len(items) > self._batch
            for item, key in zip(items[: self._batch], keys, strict=False):
                self.cursor = key
                yield item


class _Table:
    """A query, read in parts in the order of one of its columns."""

    def __init__(
        self,
        connection: Any,
        query: str,
        key: str,
        params: Sequence[Any] | Mapping[str, Any],
        paramstyle: ParamStyle,
    ) -> None:
        self._connection = connection
        self._query = query.strip().rstrip(";")
        self._key = key
        self._bind = _binder(paramstyle, params)

    def after(self, cursor: Any, limit: int) -> list[dict[str, Any]]:
        marks, params = self._bind(
            {"jobkit_after": cursor, "jobkit_limit": limit}
            if cursor is not None
            else {"jobkit_limit": limit},
        )
        where = f"WHERE {self._key} > {marks[0]} " if cursor is not None else ""
        # The key is an identifier; the query is the caller's own. The line end
        # closes a comment at the end of it.
        sql = (
            f"SELECT * FROM (\n{self._query}\n) AS page {where}"  # noqa: S608
            f"ORDER BY {self._key} LIMIT {marks[-1]}"
        )
        with closing(self._connection.cursor()) as reading:
            reading.execute(sql, params)
            names = [column[0] for column in reading.description]
            return [_as_dict(names, row) for row in reading.fetchall()]

    def key_of(self, row: dict[str, Any]) -> Any:
        try:
            return row[self._key]
        except KeyError as error:
            raise SourceError(
                f"The query's result has no column {self._key!r}; it has {list(row)}. "
                "Select it, written in the same case, or name another key.",
            ) from error


Bound = tuple[list[str], list[Any] | dict[str, Any]]

_NAMED = {"named": ":{}", "pyformat": "%({})s"}
_POSITIONAL = {"qmark": "?", "format": "%s", "numeric": ":{}"}


def _binder(
    style: ParamStyle, params: Sequence[Any] | Mapping[str, Any]
) -> Callable[[dict[str, Any]], Bound]:
    """Adds values to a query's own, and tells how their placeholders are written."""
    if style in _NAMED and (isinstance(params, Mapping) or not params):
        return partial(_bind_named, _NAMED[style], dict(params))
    if style in _POSITIONAL and not isinstance(params, Mapping):
        return partial(_bind_positional, _POSITIONAL[style], list(params))
    if style in _NAMED or style in _POSITIONAL:
        raise SourceError(
            f"With paramstyle {style!r} the params are a "
            f"{'mapping' if style in _NAMED else 'sequence'}, not {params!r}.",
        )
    styles = ", ".join([*_POSITIONAL, *_NAMED])
    raise SourceError(f"There is no paramstyle {style!r}; there are {styles}.")


def _bind_named(mark: str, params: dict[str, Any], values: dict[str, Any]) -> Bound:
    return [mark.format(name) for name in values], {**params, **values}


def _bind_positional(mark: str, params: list[Any], values: dict[str, Any]) -> Bound:
    numbers = range(len(params) + 1, len(params) + len(values) + 1)
    return [mark.format(number) for number in numbers], [*params, *values.values()]


def _as_dict(names: list[str], row: Any) -> dict[str, Any]:
    # Drivers can be told to make dicts themselves.
    return dict(row) if isinstance(row, Mapping) else dict(zip(names, row, strict=True))


def _pair(cursor: Any, start: tuple[Any, int], source: str) -> tuple[Any, int]:
    if cursor is None:
        return start
    if isinstance(cursor, (tuple, list)) and len(cursor) == len(start):
        return cursor[0], cursor[1]
    raise SourceError(
        f"The saved cursor {cursor!r} is not one of {source}: the stage was begun with "
        "another source. Deploy that one again, or restart the job.",
    )


def _check_keys(keys: list[Any]) -> None:
    if None in keys:
        raise SourceError(
            "The key of an item is NULL, so that there is no going on from it: "
            "choose a key that is never NULL, or leave those items out.",
        )
    for one, other in pairwise(keys):
        if one == other:
            raise SourceError(
                f"Two items have the key {one!r}: items would be lost between two "
                "batches. Choose a key that is unique.",
            )


def _checked_key(key: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*", key):
        raise SourceError(f"The key {key!r} is not the plain name of one column.")
    return key


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise SourceError(f"The batch has to be at least 1 item, not {batch!r}.")
