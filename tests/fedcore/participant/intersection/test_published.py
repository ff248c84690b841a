"""A published set: made once, asked about by small sets, charged before it answers."""

from __future__ import annotations

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crypto.psi import ecdh_published
from crypto.psi.items import ItemRules
from fedcore.errors import DataError, FedcoreError, JobError, PeerLost, PolicyRefused, ProtocolFailed
from fedcore.participant.data.batches import file_data
from fedcore.participant.intersection import PLANTED, RESULT, ROWS, Side, answering, intersect
from fedcore.participant.intersection import published as publishing
from fedcore.participant.intersection.answering import answer
from fedcore.participant.intersection.published import load_secret, open_file, publish
from fedcore.participant.intersection.spending import spent, spent_file
from fedcore.peer.memory import MemoryChannel
from tests.fedcore.participant.intersecting import table

LARGE = [10, 20, None, 30, 40, 30, *range(1000, 1500)]
SMALL = [30, 5, 1234, None, 30, 10]


def quiet(phase: str, done: int, of: int) -> None:
    return


@dataclass
class Shop:
    """A publisher with a large file, and whoever asks with a small one."""

    folder: Path

    def __post_init__(self) -> None:
        self.large = table(self.folder, "large.parquet", {"id": LARGE})
        self.small = table(self.folder, "small.parquet", {"id": SMALL})
        self.set, self.secret = self.folder / "large.psi", self.folder / "large.secret"
        self.out = (self.folder / "asks", self.folder / "answers")

    def side(self, data: Path, **options: Any) -> Side:
        given = {"role": "receiver", "data": file_data(data), "key": ("id",), "session": "a test", **options}
        return Side(**given)

    def publish(self, *, lifetime: int = 1000, **options: Any) -> dict[str, Any]:
        return publish(
            self.side(self.large, **options), self.set, self.secret, lifetime=lifetime, watch=quiet
        )

    def asking(self, **options: Any) -> Side:
        return self.side(self.small, protocol="ecdh-cached", published=self.set, **options)

    def told(self, **options: Any) -> list[Any]:
        """Results or errors: of who asks and of who answers."""
        ends = MemoryChannel.pair()
        side = self.asking(**options)

        def party(number: int) -> Any:
            try:
                if number == 0:
                    return intersect(lambda: ends[0], side, self.out[0])
                return answer(lambda: ends[1], self.secret, "a test", self.out[1], by="a key")
            except FedcoreError as error:
                ends[number].abort()
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(party, (0, 1)))

    def run(self, **options: Any) -> list[dict[str, Any]]:
        told = self.told(**options)
        for each in told:
            if isinstance(each, Exception):
                raise each
        return told

    def spent(self) -> int:
        return spent(self.secret, load_secret(self.secret).key.identity)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Nothing is published yet."""
    return Shop(tmp_path)


# ---- publish ------------------------------------------------------------------------------------------------------


def test_a_set_is_published_with_a_secret_that_only_its_owner_can_read(shop: Shop) -> None:
    told = shop.publish()
    assert (told["rows"], told["nulls"], told["duplicates"], told["items"]) == (506, 1, 1, 504)
    assert told["bytes"] == shop.set.stat().st_size and told["lifetime"] == 1000
    for file in (shop.secret, spent_file(shop.secret)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {file.name for file in shop.folder.iterdir()} == {
        *("large.parquet", "small.parquet", "large.psi", "large.secret", "large.secret.spent")
    }
    secret = load_secret(shop.secret)
    assert secret.key.identity.hex() == told["set"] and secret.key.scalar.hex() not in repr(secret)
    assert ecdh_published.open_published(shop.set.read_bytes()).items == 504 + PLANTED
    assert secret.key.scalar not in shop.set.read_bytes() and shop.spent() == 0


@pytest.mark.parametrize("there", ["large.psi", "large.secret", "large.secret.spent"])
def test_nothing_is_overwritten(there: str, shop: Shop) -> None:
    (shop.folder / there).write_text("of another set")
    with pytest.raises(JobError, match=f"{there} is there and is not overwritten"):
        shop.publish()
    assert (shop.folder / there).read_text() == "of another set"
    assert len(list(shop.folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("lifetime", "said"),
    [(0, "more than 64 are needed"), (PLANTED, "more than 64"), (2**63, "below 2"), (2**62 + 1, None)],
)
def test_a_lifetime_that_cannot_be_is_refused(lifetime: int, said: str | None, shop: Shop) -> None:
    if said is None:
        assert shop.publish(lifetime=lifetime)["lifetime"] == lifetime
        return
    with pytest.raises(JobError, match=said):
        shop.publish(lifetime=lifetime)
    assert not shop.set.exists() and not shop.secret.exists()


def test_a_folder_that_is_not_there_is_refused_before_anything_is_read(shop: Shop) -> None:
    shop.secret = shop.folder / "nowhere" / "x.secret"
    with pytest.raises(JobError, match="there is no folder"):
        shop.publish()


def test_a_full_disk_leaves_neither_set_nor_secret(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        shop.publish()
    assert {file.name for file in shop.folder.iterdir()} == {"large.parquet", "small.parquet"}


# ---- ask ----------------------------------------------------------------------------------------------------------


def test_who_asks_learns_its_rows_in_the_set_and_the_publisher_how_many_it_asked_for(shop: Shop) -> None:
    shop.publish()
    asked, answered = shop.run()
    import pyarrow.parquet as pq

    rows = pq.read_table(shop.out[0] / ROWS).to_pydict()
    assert sorted(rows["row"]) == [0, 2, 4, 5]
    assert asked["intersection"] == 3 and asked["matched_rows"] == 4
    assert asked["protocol"]["name"] == "ecdh-cached" and asked["published"]["items"] == 504
    assert asked["self_check"] == {"planted": PLANTED, "returned": PLANTED}
    # Four keys, and those of the self-check.
    assert answered["asked"] == 4 + PLANTED and answered["left"] == 1000 - 4 - PLANTED == 1000 - shop.spent()
    assert answered["intersection"] is None and answered["published"] == asked["published"]
    assert json.loads((shop.out[1] / RESULT).read_text()) == answered
    assert asked["bytes"]["sent"] == answered["bytes"]["received"]
    record = json.loads(spent_file(shop.secret).read_text().splitlines()[-1])
    assert (record["session"], record["by"], record["asked"]) == ("a test", "a key", 4 + PLANTED)


def test_rules_and_types_are_those_of_the_published_set(shop: Shop) -> None:
    shop.publish(rules=ItemRules(numbers_as_text=True))
    said = [str(each) for each in shop.told()]
    assert any("--numbers-as-text" in each for each in said) and shop.spent() == 0
    assert shop.run(rules=ItemRules(numbers_as_text=True))[0]["intersection"] == 3


def test_a_query_costs_what_is_asked_for_and_not_what_is_published(shop: Shop) -> None:
    shop.publish(lifetime=1000)
    asked, _ = shop.run()
    # 64 bytes an item, and less than two thousand for settings and counts.
    assert asked["bytes"]["sent"] + asked["bytes"]["received"] < 64 * (4 + PLANTED) + 2000


def test_the_digest_is_compared_once_and_again_when_the_file_changes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish()
    checks: list[bool] = []
    real = ecdh_published.open_published

    def watched(data: Any, *, check: bool) -> Any:
        checks.append(check)
        return real(data, check=check)

    monkeypatch.setattr(publishing, "open_published", watched)
    open_file(shop.set)
    open_file(shop.set)
    os.utime(shop.set, (1, 1))
    open_file(shop.set)
    assert checks == [True, False, True]


def damaged(shop: Shop, how: str) -> None:
    data = bytearray(shop.set.read_bytes())
    if how == "cut off":
        del data[-40:]
    elif how == "empty":
        data.clear()
    elif how == "text":
        data[:] = b"id\n" * 400
    else:
        data[len(data) // 2] ^= 1
    shop.set.write_bytes(data)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("how", "said"),
    [("cut off", "cut off"), ("empty", "cut off"), ("text", "not a published set"), ("a bit", "damaged")],
)
def test_a_damaged_set_is_refused_before_the_publisher_is_met(
    how: str, said: str, known: bool, shop: Shop
) -> None:
    shop.publish()
    if known:
        open_file(shop.set)
    damaged(shop, how)
    with pytest.raises(DataError, match=said):
        intersect(never, shop.asking(), shop.out[0])
    assert not list(shop.out[0].iterdir())


def test_a_set_that_is_not_there_is_refused(shop: Shop) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        intersect(never, shop.asking(), shop.out[0])


def never() -> Any:
    raise AssertionError("the other party is not to be met")


# ---- answer -------------------------------------------------------------------------------------------------------


def test_the_secret_of_another_set_is_refused_and_charged_nothing(shop: Shop) -> None:
    shop.publish()
    kept = shop.set.read_bytes()
    for file in (shop.set, shop.secret, spent_file(shop.secret)):
        file.unlink()
    shop.publish()
    shop.set.write_bytes(kept)
    asked, answered = shop.told()
    assert {type(asked), type(answered)} <= {ProtocolFailed, PeerLost}
    assert any(
        "do not belong together: fetch the set that is in use" in str(each) for each in (asked, answered)
    )
    assert shop.spent() == 0


def test_a_set_that_somebody_else_changed_has_another_name(shop: Shop) -> None:
    shop.publish()
    data = bytearray(shop.set.read_bytes())
    data[-33] ^= 1
    import hashlib

    shop.set.write_bytes(bytes(data[:-32]) + hashlib.sha256(data[:-32]).digest())
    assert any("published set" in str(each) for each in shop.told()) and shop.spent() == 0


def test_a_spent_lifetime_refuses_and_tells_who_asks(shop: Shop) -> None:
    shop.publish(lifetime=2 * (4 + PLANTED) + 10)
    assert shop.run()[1]["left"] == 4 + PLANTED + 10
    assert shop.run()[1]["left"] == 10
    asked, answered = shop.told()
    assert isinstance(asked, PolicyRefused) and isinstance(answered, PolicyRefused)
    assert "answers for 10 more items of this set and 68 are asked for" in str(asked)
    assert "68 items are asked for and 10 of the set's lifetime of 146 are left" in str(answered)
    assert not list(shop.out[0].glob(ROWS)) and shop.spent() == 2 * (4 + PLANTED)


def test_more_than_the_whole_lifetime_is_not_even_asked_for(shop: Shop) -> None:
    shop.publish(lifetime=PLANTED + 3)
    with pytest.raises(
        DataError, match="4 items, and 64 of the self-check; the set was published for 67 in all"
    ):
        intersect(never, shop.asking(), shop.out[0])


def test_a_query_that_is_broken_off_stays_charged(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.publish()

    def killed(*given: Any, **options: Any) -> int:
        raise PeerLost("was killed")

    monkeypatch.setattr(answering, "query_send", killed)
    asked, answered = shop.told()
    assert isinstance(asked, PeerLost) and isinstance(answered, PeerLost)
    assert shop.spent() == 4 + PLANTED


def test_nothing_is_answered_before_it_is_charged(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.publish()

    def full(*given: Any, **options: Any) -> int:
        raise DataError("the counter could not be written")

    monkeypatch.setattr(answering, "charge", full)
    monkeypatch.setattr(answering, "query_send", never)
    asked, answered = shop.told()
    assert isinstance(asked, PeerLost) and isinstance(answered, DataError)


@pytest.mark.parametrize("count", [-1, -(2**63), 2**63 - 1])
def test_a_count_that_cannot_be_is_refused(count: int, shop: Shop) -> None:
    import numpy as np

    from fedcore.participant.intersection.meeting import of_set, shake, terms

    shop.publish()
    ends = MemoryChannel.pair()
    secret = load_secret(shop.secret)

    def asks() -> None:
        shake(
            ends[0], "ecdh-cached", "receiver", "s", terms(secret.rules, secret.kinds) | of_set(secret.name)
        )
        ends[0].send("psi.asking", np.array([count], dtype="<i8"))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asks)
        with pytest.raises(ProtocolFailed, match=r"psi\.asking"):
            answer(lambda: ends[1], shop.secret, "s", shop.out[1])
    assert shop.spent() == 0


def test_a_run_that_loses_matches_fails_and_writes_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish()
    real = publishing.query_receive
    monkeypatch.setattr(publishing, "query_receive", lambda *given: real(*given)[::2])
    asked = shop.told()[0]
    assert isinstance(asked, ProtocolFailed) and "planted items came back" in str(asked)
    assert not list(shop.out[0].iterdir())


# ---- the secret ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(version=9), "has version 9"),
        (lambda told: told.update(scalar="00" * 32), "not the secret of a published set, or is damaged"),
        (lambda told: told.update(scalar="02" + told["scalar"][2:]), "its scalar is not that of its set"),
        (lambda told: told.pop("kinds"), "damaged"),
        (lambda told: told.update(fedcore="another"), "not the secret of a published set"),
    ],
)
def test_a_secret_that_cannot_be_used_says_so_and_quotes_nothing(change: Any, said: str, shop: Shop) -> None:
    shop.publish()
    told = json.loads(shop.secret.read_text())
    scalar = told["scalar"]
    change(told)
    shop.secret.write_text(json.dumps(told))
    with pytest.raises(JobError) as caught:
        load_secret(shop.secret)
    assert said in str(caught.value) and scalar[2:] not in str(caught.value)


def test_a_secret_that_others_can_read_is_refused(shop: Shop) -> None:
    shop.publish()
    shop.secret.chmod(0o640)
    with pytest.raises(JobError, match="has mode 0640"):
        load_secret(shop.secret)
    with pytest.raises(JobError, match="cannot be read"):
        load_secret(shop.folder / "no.secret")
