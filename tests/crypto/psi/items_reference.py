"""Keys of items in plain Python: the encoding written down a second time, from its description alone."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from crypto.psi.items import ItemRules


def key(values: tuple[Any, ...], rules: ItemRules) -> bytes:
    """The key of a row; its values are Python's."""
    return hashlib.blake2s(encoding(values, rules), digest_size=16, person=b"fc-psi-1").digest()


def encoding(values: tuple[Any, ...], rules: ItemRules) -> bytes:
    made = bytes([len(values)])
    for value in values:
        kind, payload = _column(value, rules)
        made += kind.encode() + len(payload).to_bytes(4, "little") + payload
    return made


def _column(value: Any, rules: ItemRules) -> tuple[str, bytes]:
    if isinstance(value, bool):
        return "t", b"1" if value else b"0"
    if isinstance(value, str):
        return "s", text(value, rules).encode()
    if isinstance(value, bytes):
        return "b", value
    if isinstance(value, int | Decimal):
        return "s" if rules.numbers_as_text else "n", _number(value)
    if isinstance(value, datetime):
        zone = value.tzinfo is not None
        start = datetime(1970, 1, 1, tzinfo=UTC if zone else None)
        return "m" if zone else "w", _number(_seconds(value - start))
    if isinstance(value, date):
        return "s" if rules.dates_as_text else "d", value.isoformat().encode()
    if isinstance(value, time):
        span = timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
        return "c", _number(_seconds(span))
    raise TypeError(type(value))


def text(value: str, rules: ItemRules) -> str:
    if rules.normalize:
        value = unicodedata.normalize("NFKC", value)
    if rules.fold_case:
        value = value.casefold()
    if rules.normalize:
        value = unicodedata.normalize("NFKC", value)
    return value.strip() if rules.trim else value


def _seconds(span: timedelta) -> Decimal:
    return Decimal(span // timedelta(microseconds=1)).scaleb(-6)


def _number(value: int | Decimal) -> bytes:
    sign, digits, exponent = Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    scaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    places = max(-exponent, 0)
    whole, rest = divmod(scaled, 10**places)
    fraction = str(rest).rjust(places, "0").rstrip("0") if places else ""
    return f"{'-' if sign and scaled else ''}{whole}{'.' if fraction else ''}{fraction}".encode()
