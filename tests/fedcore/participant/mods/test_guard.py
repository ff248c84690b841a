"""What leaves a site when something fails there: a type and a message that holds no data."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore import errors
from fedcore.jobs.participant import Participant
from fedcore.participant.mods.guard import guard
from strategies.base import StrategyError
from strategies.registry import resolve
from tests.messages import CONTEXT, message

SITE = Participant(name="site-0", catalogue={})


def sent_when(raised: BaseException, resolve=lambda context: SITE) -> str:
    def work(*_):
        raise raised

    reply = guard(resolve)(message(), CONTEXT, work)
    assert reply.has_error() and not reply.has_content()
    return reply.error.reason


def test_a_reply_passes_unchanged() -> None:
    reply = message()
    assert guard(lambda context: SITE)(message(), CONTEXT, lambda *_: reply) is reply


@given(st.text(min_size=6), st.sampled_from([ValueError, KeyError, OSError, RuntimeError, UnicodeError]))
def test_the_text_of_an_exception_never_leaves_only_its_type(secret, kind) -> None:
    logging.getLogger("fedcore.participant").setLevel(logging.CRITICAL)
    # Digits alone stand in no sentence of ours; letters might.
    secret = f"4711{secret}4711"
    told = json.loads(sent_when(kind(secret)))
    assert told["type"] == "TaskFailed" and kind.__name__ in told["message"]
    assert "4711" not in json.dumps(told)


@pytest.fixture(autouse=True)
def _level():
    yield
    logging.getLogger("fedcore.participant").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "kind",
    [
        errors.DataError,
        errors.JobError,
        errors.PolicyRefused,
        errors.TaskFailed,
        errors.PeerLost,
        errors.FedcoreError,
    ],
)
def test_our_own_errors_leave_as_message_and_party_without_their_detail(kind, caplog) -> None:
    with caplog.at_level(logging.WARNING, "fedcore.participant"):
        told = json.loads(sent_when(kind("column age has gaps", detail="patient 4711")))
    assert told == {"type": kind.__name__, "message": "column age has gaps", "party": "site-0"}
    assert "patient 4711" in caplog.text, "the site's own log has it"


def test_an_error_with_a_cause_leaves_without_it() -> None:
    def work(*_):
        try:
            int("patient 4711")
        except ValueError as cause:
            raise errors.DataError("a value is no number") from cause

    reply = guard(lambda context: SITE)(message(), CONTEXT, work)
    assert "4711" not in reply.error.reason


def test_the_trace_is_in_the_site_s_log(caplog) -> None:
    with caplog.at_level(logging.ERROR, "fedcore.participant"):
        sent_when(ValueError("patient 4711"))
    assert "patient 4711" in caplog.text and "Traceback" in caplog.text


def test_a_strategy_that_does_not_fit_says_why() -> None:
    told = json.loads(sent_when(StrategyError("fedbn needs batch norm layers")))
    assert told["type"] == "JobError" and told["message"] == "strategy: fedbn needs batch norm layers"


def test_what_a_strategy_s_module_raises_on_import_leaves_as_its_type_only(tmp_path, monkeypatch) -> None:
    (tmp_path / "reads_a_file.py").write_text("raise OSError('/home/dr-who/patients-4711.csv')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StrategyError) as caught:
        resolve("reads_a_file:Mean")
    told = json.loads(sent_when(caught.value))["message"]
    assert "OSError" in told and "4711" not in told


def test_a_task_that_ends_the_process_does_not() -> None:
    told = json.loads(sent_when(SystemExit("patient 4711")))
    assert told["type"] == "TaskFailed" and "SystemExit" in told["message"] and "4711" not in told["message"]


def test_ctrl_c_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt):
        sent_when(KeyboardInterrupt())


def test_a_participant_that_cannot_be_found_is_told_without_a_name() -> None:
    def nobody(context):
        raise errors.JobError("no participant file")

    told = json.loads(sent_when(AssertionError(), nobody))
    assert told == {"type": "JobError", "message": "no participant file", "party": None}


def test_the_step_and_the_party_that_an_error_is_about_leave_with_it() -> None:
    lost = errors.PeerLost("vanished", party="site-1", step="psi.tags")
    told = json.loads(sent_when(lost))
    assert told == {
        "type": "PeerLost",
        "message": "vanished",
        "party": "site-0",
        "step": "psi.tags",
        "about": "site-1",
    }
    own = json.loads(sent_when(errors.DataError("no rows", party="site-0")))
    assert own == {"type": "DataError", "message": "no rows", "party": "site-0"}
