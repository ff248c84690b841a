"""The models themselves: durations, amounts of memory, names, and what must fit together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedcore.jobs.common import Bytes, Name, Seconds
from fedcore.jobs.datasets import DataSet, Part
from fedcore.jobs.federation import Coordinator, Federation
from fedcore.jobs.job import Stop, TrainJob
from fedcore.jobs.participant import Participant
from fedcore.jobs.virtual import virtual_participants


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(5, 5.0), (0.5, 0.5), ("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("250ms", 0.25), ("1.5 min", 90.0)],
)
def test_duration_is_read_in_seconds(written: Any, seconds: float) -> None:
    assert TypeAdapter(Seconds).validate_python(written) == seconds


@pytest.mark.parametrize("written", [0, -1, "0s", "10", "ten minutes", "10 days", "s", "1..2s", "1 S"])
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Seconds).validate_python(written)


@pytest.mark.parametrize(
    ("written", "amount"), [(512, 512), ("512MB", 512_000_000), ("1.5 GB", 1_500_000_000), ("7B", 7)]
)
def test_memory_is_read_in_bytes(written: Any, amount: int) -> None:
    assert TypeAdapter(Bytes).validate_python(written) == amount


@pytest.mark.parametrize("written", [0, "0B", "lots", "16", "16 gb", "-1GB", "1..5GB"])
def test_what_is_no_amount_of_memory_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Bytes).validate_python(written)


@given(st.text(max_size=12))
def test_name_is_safe_in_a_path(text: str) -> None:
    try:
        name = TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return
    assert name == text
    assert name.isascii() and name[0].isalnum()
    assert not set(name) & set("/\\ \n\t:*?\"'<>|$&;")


def test_name_with_a_line_break_at_its_end_is_refused() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python("site-a\n")


@pytest.mark.parametrize(
    ("metric", "mode", "maximize"),
    [("auc", "auto", True), ("loss", "auto", False), ("val_loss", "auto", False), ("auc", "min", False),
     ("loss", "max", True)],
)  # fmt: skip
def test_stop_knows_which_way_is_better(metric: str, mode: Any, maximize: bool) -> None:
    assert Stop(metric=metric, mode=mode).maximize is maximize


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": 3, "of": 3},
        {"index": 0, "of": 3, "method": "dirichlet"},
        {"index": 0, "of": 3, "method": "by"},
        {"index": 0, "of": 3, "alpha": 0},
    ],
)
def test_incomplete_part_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Part(**wrong)


@pytest.mark.parametrize("source", [{}, {"table": "t", "query": "SELECT 1"}])
@pytest.mark.parametrize(
    "database",
    [{"connector": "sqlite", "path": "a.db"}, {"connector": "postgresql", "url": "postgresql://u@h/d"}],
)
def test_database_needs_a_table_or_a_query(database: dict[str, Any], source: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of table and query"):
        TypeAdapter(DataSet).validate_python(database | source)


def test_coordinator_knows_host_and_port() -> None:
    coordinator = Coordinator(address="fed.example.org:9092")
    assert (coordinator.host, coordinator.port) == ("fed.example.org", 9092)


@pytest.mark.parametrize("address", ["localhost", "localhost:", "a b:1", ":80", "h:123456", "h:65536", "h:0"])
def test_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ValidationError):
        Coordinator(address=address)


def test_virtual_participants_do_not_run_as_deployment() -> None:
    data = {"connector": "csv", "path": "a.csv"}
    with pytest.raises(ValidationError, match="embedded or simulation, not deployment"):
        Federation.model_validate(
            {"name": "f", "engine": "deployment", "virtual": {"count": 2, "name": "d", "data": data}}
        )


def test_virtual_participants_keep_the_policy_that_the_file_gives(tmp_path: Any) -> None:
    policy = {"rules": [{"jobs": ["train"], "data": "d", "min_cohort": 7}], "code": ["mine"]}
    data = {"connector": "csv", "path": "a.csv"}
    spec = Federation.model_validate(
        {"name": "f", "virtual": {"count": 2, "name": "d", "data": data, "policy": policy}}
    )
    sites = virtual_participants(spec, tmp_path)
    assert [site.policy.rules[0].min_cohort for site in sites] == [7, 7]
    assert sites[0].policy.code == ("mine",)


def test_policy_denies_what_no_rule_allows() -> None:
    participant = Participant.model_validate({"name": "a", "catalogue": {}})
    assert participant.policy.rules == () and participant.policy.default == "deny"


def test_models_are_frozen() -> None:
    job = TrainJob.model_validate(
        {"kind": "train", "name": "a", "data": "d", "task": {"use": "tabular-classifier", "target": "y"}}
    )
    with pytest.raises(ValidationError):
        job.rounds = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("names", "said"), [(["a"], "min is 2 but only 1 are named"), (["a", "b", "a"], "stands twice")]
)
def test_named_participants_must_be_enough_and_distinct(names: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainJob.model_validate(
            {
                "kind": "train",
                "name": "a",
                "data": "d",
                "task": {"use": "image-classifier"},
                "participants": {"min": 2, "names": names},
            }
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"features": ["a", "y"]}}, "target 'y' stands among them"),
        ({"task": {"features": []}}, "features: name one or more"),
        ({"task": {"features": ["a", "b", "a"]}}, "features: a column stands twice"),
        ({"task": {"hidden": [8, 0]}}, "hidden: every layer has one unit or more"),
        (
            {"stop": {"metric": "loss"}, "evaluation": {"federated": False}},
            "stop: there is nothing to judge by",
        ),
        (
            {"baselines": ["local"], "evaluation": {"federated": False}},
            "baselines: there is nothing to judge by",
        ),
    ],
)
def test_settings_that_cannot_mean_anything_are_refused(changes: dict[str, Any], said: str) -> None:
    job = {
        "kind": "train",
        "name": "a",
        "data": "d",
        **changes,
        "task": {"use": "tabular-classifier", "target": "y", **changes.get("task", {})},
    }
    with pytest.raises(ValidationError, match=said):
        TrainJob.model_validate(job)


@pytest.mark.parametrize("written", ["auto", "off", 1, 9444, 65535])
def test_data_port_is_a_port_or_a_word(written: Any) -> None:
    assert Coordinator(data_port=written).data_port == written


@pytest.mark.parametrize("written", [0, -1, 65536, True, False, 1.5, "9444", "on", "", None, [9444]])
def test_what_is_no_data_port_is_refused(written: Any) -> None:
    with pytest.raises(ValidationError):
        Coordinator(data_port=written)


def test_data_port_is_nobody_elses() -> None:
    with pytest.raises(ValidationError, match="data_port is 8443, the port of address"):
        Coordinator(address="centre.example:8443", data_port=8443)
    told = {"name": "f", "participants": ["a.yaml"], "relay": {"address": "centre.example:9000"}}
    assert Federation(**told, coordinator={"data_port": 9001})
    with pytest.raises(ValidationError, match=r"data_port is 9000, the port of relay\.address"):
        Federation(**told, coordinator={"data_port": 9000})
