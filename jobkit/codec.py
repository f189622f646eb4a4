"""Text for the store and back, with every value's type kept.

Plain JSON values are written as JSON. Others become an object with one key
that begins with ``!``: ``{"!date": "2026-11-24"}``. A dict with a key that
begins so itself, or that is not plain text, is written as
``{"!dict": [[key, value], ...]}``.
"""

import base64
import json
import math
import reprlib
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from jobkit.errors import CodecError, LimitError

MESSAGE_LIMIT = 1024 * 1024
CURSOR_LIMIT = 4 * 1024
STEP_VALUE_LIMIT = 64 * 1024
TEXT_LIMIT = 2_000
TRACEBACK_LIMIT = 10_000
DEPTH_LIMIT = 50

KEPT = "str, int, float, bool, None, list, tuple, dict, bytes, datetime, date, Decimal, UUID"

Path = tuple[tuple[str, Any], ...]

_PLAIN_BITS = 1024
_ANY_UTF8 = ("utf-8", "surrogatepass")


def dumps(value: Any, *, what: str = "value", limit: int | None = None) -> str:
    """Write ``value`` as text that is valid UTF-8.

    A subclass of a kept type, such as an enum or a named tuple, is not kept.

    Args:
        value: What to write.
        what: Its name in errors.
        limit: The most bytes it may take.

    Raises:
        CodecError: It, or something in it, has a type that is not kept, or it
            is nested more than ``DEPTH_LIMIT`` levels deep.
        LimitError: It takes more than ``limit`` bytes.
    """
    packed = _pack(value, ((what, None),))
    text = json.dumps(
        packed, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    size = len(text.encode())
    if limit is not None and size > limit:
        raise LimitError(
            f"The {what} takes {size} bytes, at most {limit} are kept. "
            "Store a key to the data instead of the data.",
        )
    return text


def loads(text: str) -> Any:
    """Read what ``dumps`` wrote.

    Raises:
        CodecError: A newer jobkit wrote it, with a type that this one does not know.
    """
    return _unpack(json.loads(text))


def _pack(value: Any, path: Path) -> Any:
    if value is None or value is True or value is False:
        return value
    pack = _PACKERS.get(type(value))
    if pack is None:
        raise CodecError(
            f"The {_place(path)} is of type {_name(value)}, which is not kept. "
            f"Kept are {KEPT}.",
        )
    return pack(value, path)


def _place(path: Path) -> str:
    (what, _), *steps = path
    return what + "".join(template.format(reprlib.repr(key)) for template, key in steps)


def _name(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _pack_item(item: Any, path: Path, key: Any, template: str = "[{}]") -> Any:
    if len(path) > DEPTH_LIMIT:
        raise CodecError(
            f"The {_place(path[:1])} is nested more than {DEPTH_LIMIT} levels deep, "
            "or contains itself. Store a flatter value.",
        )
    return _pack(item, (*path, (template, key)))


def _pack_str(value: str, _path: Path) -> Any:
    # A lone surrogate, as os.fsdecode makes them, has no place in UTF-8.
    return value if _is_utf8(value) else {"!str": _base64(value.encode(*_ANY_UTF8))}


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _pack_int(value: int, _path: Path) -> Any:
    # Python neither writes nor reads decimal numbers of more than 4300 digits.
    return value if value.bit_length() <= _PLAIN_BITS else {"!int": hex(value)}


def _pack_float(value: float, _path: Path) -> Any:
    return value if math.isfinite(value) else {"!float": repr(value)}


def _pack_list(value: list[Any], path: Path) -> Any:
    return [_pack_item(item, path, i) for i, item in enumerate(value)]


def _pack_tuple(value: tuple[Any, ...], path: Path) -> Any:
    return {"!tuple": [_pack_item(item, path, i) for i, item in enumerate(value)]}


def _pack_dict(value: dict[Any, Any], path: Path) -> Any:
    if all(_is_plain_key(key) for key in value):
        return {key: _pack_item(item, path, key) for key, item in value.items()}
    return {
        "!dict": [
            [_pack_item(key, path, key, " key {}"), _pack_item(item, path, key)]
            for key, item in value.items()
        ],
    }


def _is_plain_key(key: object) -> bool:
    return type(key) is str and not key.startswith("!") and _is_utf8(key)


def _pack_datetime(value: datetime, path: Path) -> Any:
    zone, text = value.tzinfo, value.isoformat()
    if type(zone) is ZoneInfo and zone.key:
        return {"!datetime": [text, zone.key, value.fold]}
    if zone is not None and type(zone) is not timezone:
        raise CodecError(
            f"The {_place(path)} is a datetime with a zone of type {_name(zone)}, which "
            "is not kept. Kept are zoneinfo.ZoneInfo with a key, datetime.timezone and "
            "no zone.",
        )
    return {"!datetime": [text, None, 1] if value.fold else [text]}


def _pack_bytes(value: bytes, _path: Path) -> Any:
    return {"!bytes": _base64(value)}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _pack_date(value: date, _path: Path) -> Any:
    return {"!date": value.isoformat()}


def _pack_decimal(value: Decimal, _path: Path) -> Any:
    return {"!decimal": str(value)}


def _pack_uuid(value: UUID, _path: Path) -> Any:
    return {"!uuid": str(value)}


_PACKERS: dict[type, Callable[[Any, Path], Any]] = {
    str: _pack_str,
    int: _pack_int,
    float: _pack_float,
    list: _pack_list,
    tuple: _pack_tuple,
    dict: _pack_dict,
    bytes: _pack_bytes,
    datetime: _pack_datetime,
    date: _pack_date,
    Decimal: _pack_decimal,
    UUID: _pack_uuid,
}


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, packed),) = value.items()
        if tag.startswith("!"):
            return _unpack_tagged(tag, packed)
    return {key: _unpack(item) for key, item in value.items()}


def _unpack_tagged(tag: str, packed: Any) -> Any:
    unpack = _UNPACKERS.get(tag)
    if unpack is None:
        raise CodecError(
            f"A stored value has the type {tag!r}, which this jobkit does not know: "
            "upgrade celery-jobkit in this process.",
        )
    return unpack(packed)


def _unpack_tuple(items: list[Any]) -> tuple[Any, ...]:
    return tuple(_unpack(item) for item in items)


def _unpack_dict(pairs: list[list[Any]]) -> dict[Any, Any]:
    return {_unpack(key): _unpack(item) for key, item in pairs}


def _unpack_datetime(parts: list[Any]) -> datetime:
    moment = datetime.fromisoformat(parts[0])
    if len(parts) == 1:
        return moment
    _, zone, fold = parts
    return moment.replace(tzinfo=ZoneInfo(zone) if zone else moment.tzinfo, fold=fold)


def _unpack_str(text: str) -> str:
    return base64.b64decode(text).decode(*_ANY_UTF8)


def _unpack_int(text: str) -> int:
    return int(text, 16)


_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "!str": _unpack_str,
    "!int": _unpack_int,
    "!float": float,
    "!tuple": _unpack_tuple,
    "!dict": _unpack_dict,
    "!bytes": base64.b64decode,
    "!datetime": _unpack_datetime,
    "!date": date.fromisoformat,
    "!decimal": Decimal,
    "!uuid": UUID,
}
