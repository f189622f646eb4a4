"""Every kept type comes back as it was; everything else is refused by name."""

import enum
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import TZPATH, ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from jobkit import codec
from jobkit.errors import CodecError, LimitError

BERLIN = ZoneInfo("Europe/Berlin")
SUMMER_TIME_ENDS = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)

KEPT = {
    "text": "plain",
    "empty text": "",
    "odd text": 'tab\t null\0 quote" newline\n paragraph\u2029 emoji\U0001f600',
    "lone surrogate": "of os.fsdecode: \udcff",
    "surrogates that are no pair": "\ud83d\ude00",
    "zero": 0,
    "negative": -1,
    "64 bits": 2**63,
    "1300 digits": -(10**1300),
    "fraction": 0.1,
    "negative zero": -0.0,
    "smallest float": 5e-324,
    "infinity": math.inf,
    "negative infinity": -math.inf,
    "not a number": math.nan,
    "true": True,
    "false": False,
    "none": None,
    "empty list": [],
    "list": [1, [2]],
    "empty tuple": (),
    "tuple": (1, (2,)),
    "empty dict": {},
    "dict": {"a": {"b": 1}},
    "dict that looks tagged": {"!date": "not a date"},
    "dict with a tag": {"!": 1, "plain": 2},
    "dict with a surrogate": {"\udcff": 1},
    "no bytes": b"",
    "bytes": b"\x00\xff",
    "date": date(2026, 11, 24),
    "moment without zone": datetime(2026, 11, 24, 12, 0, 0, 1),  # noqa: DTZ001 - kept too
    "second of two": datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001 - likewise
    "moment in UTC": datetime(2026, 11, 24, 12, 0, tzinfo=UTC),
    "fixed offset": datetime(2026, 11, 24, tzinfo=timezone(timedelta(seconds=-7))),
    "first moment": datetime(1, 1, 1, tzinfo=BERLIN),
    "first half past two": SUMMER_TIME_ENDS,
    "second half past two": SUMMER_TIME_ENDS.replace(fold=1),
    "moment that never was": datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN),
    "decimal": Decimal("1.10"),
    "negative zero decimal": Decimal("-0"),
    "large decimal": Decimal("1E+400"),
    "infinite decimal": Decimal("Infinity"),
    "signalling decimal": Decimal("sNaN12"),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
}
KEYS = [name for name, value in KEPT.items() if not isinstance(value, list | dict)]
KEYS.remove("signalling decimal")  # cannot be hashed


class Colour(enum.IntEnum):
    RED = 1


class Level(enum.StrEnum):
    LOW = "low"


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the plain kind


class Zone(tzinfo):
    @override
    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        return timedelta(0)

    @override
    def dst(self, moment: datetime | None, /) -> None:
        return None

    @override
    def tzname(self, moment: datetime | None, /) -> None:
        return None


class Hostile:
    @override
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")


REFUSED = [
    (Colour.RED, "Colour"),
    (Level.LOW, "Level"),
    (Point(1, 2), "Point"),
    (OrderedDict(a=1), "collections.OrderedDict"),
    ({1, 2}, "builtins.set"),
    (bytearray(b"x"), "builtins.bytearray"),
    (timedelta(1), "datetime.timedelta"),
    (1j, "builtins.complex"),
    (object, "builtins.type"),
    (Hostile(), "Hostile"),
]


def same(left: object, right: object) -> bool:
    """Equal also where == is blind: types, signs of zero, zones, fold."""
    return repr(left) == repr(right)


def there_and_back(value: object) -> Any:
    text = codec.dumps(value)
    text.encode()  # valid for the store
    return codec.loads(text)


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_value_survives_alone(name: str) -> None:
    assert same(there_and_back(KEPT[name]), KEPT[name])


@pytest.mark.parametrize("name", KEPT)
def test_a_kept_value_survives_inside_others(name: str) -> None:
    nested = {"list": [KEPT[name], (1, {"!tagged": KEPT[name]})], "after": 1}

    assert same(there_and_back(nested), nested)


@pytest.mark.parametrize("name", KEYS)
def test_a_kept_value_survives_as_a_key(name: str) -> None:
    mapping = {KEPT[name]: "value", "other": 2}

    assert same(there_and_back(mapping), mapping)


def test_a_number_that_python_does_not_print_survives() -> None:
    assert there_and_back(10**5000) == 10**5000
    assert there_and_back({-(10**5000): 1}) == {-(10**5000): 1}


def test_keys_that_json_would_make_equal_stay_apart() -> None:
    mapping = {1: "int", "1": "str", None: "none", "null": "text", (1,): "tuple"}

    assert same(there_and_back(mapping), mapping)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC))
    | st.decimals(allow_nan=False)
    | st.just(Decimal("NaN"))
    | st.uuids()
)
keys = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
@example({"!dict": []})
@example([{"!tuple": 1}, {("!",): {"!": {}}}])
def test_any_mixture_of_kept_values_survives(value: object) -> None:
    assert same(there_and_back(value), value)


@given(values)
def test_what_was_read_is_written_as_before(value: object) -> None:
    text = codec.dumps(value)

    assert codec.dumps(codec.loads(text)) == text


@pytest.mark.parametrize(("value", "kind"), REFUSED, ids=lambda value: str(type(value)))
def test_another_type_is_refused_by_its_name_and_place(
    value: object, kind: str
) -> None:
    with pytest.raises(CodecError) as refusal:
        codec.dumps({"rows": [0, (value,)]}, what="cursor")

    message = str(refusal.value)
    assert message.startswith("The cursor['rows'][1][0] is of type ")
    assert kind in message
    assert codec.KEPT in message


def test_a_key_of_another_type_is_refused_by_its_name_and_place() -> None:
    with pytest.raises(
        CodecError, match=r"^The cursor\['a'\] key 1j is of type .*complex"
    ):
        codec.dumps({"a": {1j: "x"}}, what="cursor")


def test_a_refusal_stays_short_when_the_key_is_long() -> None:
    with pytest.raises(CodecError) as refusal:
        codec.dumps({"k" * 10_000: object()})

    assert len(str(refusal.value)) < 300


def test_the_name_of_a_value_may_hold_braces() -> None:
    with pytest.raises(CodecError, match=r"cursor of stage '\{0\}' is of type"):
        codec.dumps(object(), what="cursor of stage '{0}'")


def zone_without_a_key() -> ZoneInfo:
    for folder in TZPATH:
        if (path := Path(folder, "Europe/Berlin")).exists():
            with path.open("rb") as file:
                return ZoneInfo.from_file(file)
    return pytest.skip("no time zones on this machine")


@pytest.mark.parametrize("make", [Zone, zone_without_a_key])
def test_a_zone_that_cannot_be_found_again_is_refused(
    make: Callable[[], tzinfo],
) -> None:
    with pytest.raises(
        CodecError, match=r"^The cursor\[0\] is a datetime with a zone of"
    ):
        codec.dumps([datetime(2026, 11, 24, tzinfo=make())], what="cursor")


def test_the_limit_is_in_bytes_and_the_error_names_both_sizes() -> None:
    assert codec.dumps("ä" * 9, limit=20) == f'"{"ä" * 9}"'
    with pytest.raises(
        LimitError, match="The cursor takes 22 bytes, at most 20 are kept"
    ):
        codec.dumps("ä" * 10, what="cursor", limit=20)


def test_a_value_at_the_limit_is_kept_and_one_byte_more_is_not() -> None:
    codec.dumps("x" * (codec.CURSOR_LIMIT - 2), limit=codec.CURSOR_LIMIT)
    with pytest.raises(LimitError, match=r"4097 bytes, at most 4096 are kept"):
        codec.dumps("x" * (codec.CURSOR_LIMIT - 1), limit=codec.CURSOR_LIMIT)


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = (value,)
    return value


def test_a_value_as_deep_as_allowed_survives() -> None:
    value = nested(codec.DEPTH_LIMIT)

    assert same(there_and_back(value), value)


def test_a_deeper_value_is_refused() -> None:
    with pytest.raises(
        CodecError, match="The step value is nested more than 50 levels"
    ):
        codec.dumps(nested(codec.DEPTH_LIMIT + 1), what="step value")


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(CodecError, match="contains itself"):
        codec.dumps(value)


def test_a_type_of_a_newer_version_is_refused_instead_of_misread() -> None:
    with pytest.raises(CodecError, match=r"'!range'.* upgrade celery-jobkit"):
        codec.loads('[{"!range":[1,2]}]')
