"""The report: complete and honest for every kind of run, safe whatever a participant calls itself."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.coordinator.record import parse
from fedcore.coordinator.report import render, write_report
from fedcore.coordinator.wording import headline
from fedcore.errors import JobError
from tests.fedcore.coordinator.chromium import MISSING, PROGRAM, open_page
from tests.fedcore.coordinator.result_factory import make_result, write_run

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b]0;x\x07\u202e"


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.style = ""
        self._in_style = self._in_cell = False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._in_style, self._in_cell = tag == "style", tag in ("td", "th") or self._in_cell
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_style, self._in_cell = False, self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
            return
        self.words.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data


_TAGS = """
html head meta title style body main header footer section h1 h2 h3 p b small span div dl dt dd ul li
table caption thead tbody tr th td figure figcaption details summary pre code svg g path rect circle line text
"""
ALLOWED_TAGS = frozenset(_TAGS.split())


def hostile(value: Any) -> Any:
    """The same structure with every text and every key of free choice replaced by an attack."""
    if isinstance(value, dict):
        free = ("sites", "local", "evaluate", "central", "train", "seconds", "bytes", "protection", "layers")
        return {
            key: {f"{HOSTILE}{name}": hostile(each) for name, each in part.items()}
            if key in free and isinstance(part, dict)
            else hostile(part)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return f"{HOSTILE}{value}" if isinstance(value, str) else value


def test_no_text_of_a_result_becomes_markup():
    result = hostile(make_result() | {"error": {"type": "x", "message": "m", "party": "p", "step": "s"}})
    result |= {"versions": {HOSTILE: HOSTILE}, "warnings": [HOSTILE], "reason": HOSTILE}
    result["left_out"] = [{"party": HOSTILE, "step": HOSTILE, "reason": HOSTILE}]
    text = render(result)
    page = Page(text)
    assert page.tags <= ALLOWED_TAGS
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text, "the name is shown, as text"
    assert "\x1b" not in text and "\u202e" not in text


@settings(max_examples=25, deadline=None)
@given(st.text(), st.text(), st.text())
def test_no_name_reason_or_metric_becomes_markup(party, reason, metric):
    result = make_result(sites=2, rounds=2)
    result["rounds"][0]["lost"].append({"party": party, "step": "train round 1", "reason": reason})
    result["rounds"][0]["sites"][party] = {"evaluate": {metric: 0.5}}
    result["name"] = party
    page = Page(render(result))
    assert page.tags <= ALLOWED_TAGS
    page_again = render(result).encode("utf-8", errors="strict")
    assert page_again.startswith(b"<!doctype html>")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                sorted(
                    {
                        "round",
                        "sites",
                        "evaluate",
                        "loss",
                        "seconds",
                        "bytes",
                        "train",
                        "lost",
                        "party",
                        "rows",
                        "name",
                        "metric",
                        "local",
                        "federated",
                        "value",
                    }
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(make_result(rounds=1))), JSON, max_size=6))
def test_any_json_object_gives_a_page(spoiled):
    page = Page(render(make_result(sites=2, rounds=2) | spoiled))
    assert page.tags <= ALLOWED_TAGS
    drawn = [value for name, value in page.attributes if name not in ("aria-label", "content")]
    assert not [value for value in drawn if re.search(r"\b(nan|inf|None)\b", value)]


def test_the_page_names_no_other_address_and_allows_only_its_own_style():
    page = Page(render(make_result()))
    assert not {"src", "href", "xlink:href", "action", "srcset"} & {name for name, _ in page.attributes}
    assert not re.search(r"url\(|@import|https?:", page.style)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"


@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("sites", [1, 2, 41])
@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_run_of_any_shape_gives_a_page_without_broken_numbers(sites, rounds, status):
    result = make_result(sites=sites, rounds=rounds, status=status, planned=10)
    page = Page(render(result))
    assert page.tags <= ALLOWED_TAGS
    assert not [value for _, value in page.attributes if re.search(r"\b(nan|inf|None)\b", value)]
    assert ("Round by round" in page.text) == (rounds > 0)


def test_a_run_of_a_thousand_participants_stays_below_a_megabyte_and_names_the_extremes():
    result = make_result(sites=1000, rounds=4, metrics=6)
    text = render(result)
    assert len(text.encode()) < 1_000_000
    ranked = sorted(result["final"]["sites"], key=lambda s: result["final"]["sites"][s]["accuracy"])
    named = [row[0] for row in Page(text).rows if re.fullmatch(r"hospital-\d+", row[0])]
    assert named[:10] == ranked[:10]
    assert {result["final"]["sites"][name]["accuracy"] for name in named[10:20]} == {
        result["final"]["sites"][name]["accuracy"] for name in ranked[-10:]
    }
    assert set(named) - {"hospital-1000"} <= {*ranked[:10], *ranked[-10:]} | set(named[10:20])


def test_long_runs_with_many_metrics_stay_below_a_megabyte():
    assert len(render(make_result(sites=40, rounds=300, metrics=12)).encode()) < 1_000_000


def test_a_diverged_run_says_so():
    result = make_result(baselines=False)
    result["final"]["evaluate"]["accuracy"] = math.nan
    assert "accuracy is not a number: training diverged" in headline(parse(result))
    assert "not a number" in Page(render(result)).text


def test_layers_that_are_off_are_visibly_off():
    rows = {row[0]: row[1] for row in Page(render(make_result())).rows if len(row) == 3}
    assert rows["Secure aggregation"] == "off"
    assert rows["Differential privacy"] == "off"
    assert rows["Disclosure control"] == "off"
    assert rows["Separate sites"] == "off"
    assert rows["Site policy"] == "on"


def test_an_evidence_log_that_was_changed_afterwards_is_reported(tmp_path):
    folder = write_run(tmp_path, make_result())
    assert "log has 3 entries, chained by SHA-256" in Page(write_report(folder).read_text()).text
    log = folder / "evidence" / "coordinator.jsonl"
    log.write_text(log.read_text().replace("received", "received nothing"))
    page = Page(write_report(folder).read_text())
    assert "cannot be trusted" in page.text
    assert {row[0]: row[1] for row in page.rows if len(row) == 3}["Evidence log"] == "off"


def test_lost_participants_are_listed_with_round_and_reason():
    result = make_result()
    result["left_out"] = [{"party": "hospital-9", "step": "prepare", "reason": "no rows"}]
    page = Page(render(result))
    assert ["4", "hospital-5", "train round 4", "no reply within its deadline of 600 s"] in page.rows
    assert ["hospital-9", "no rows"] in page.rows
    fourth = next(row for row in page.rows if row[0] == "4" and len(row) > 4)
    assert fourth[-1] == "4 of 5", "a lost participant's bytes stand in the record, but it did not reply"


def test_seconds_that_no_phase_explains_are_the_coordinator_s_and_count_once():
    result = make_result(rounds=2)
    for each in result["rounds"]:
        each["seconds"] = {"train": 1.0, "evaluate": 0.5, "total": 2.0}
    record = parse(result)
    assert record.total("seconds") == {"train": 2.0, "evaluate": 1.0, "coordinator": 1.0}
    assert "4.0 s in all, 2.0 s per round" in Page(render(result)).text


def test_a_model_kept_from_an_earlier_round_is_marked_and_its_numbers_are_those_of_that_round():
    result = make_result(rounds=9, planned=20, status="stopped-early", baselines=False)
    kept = result["rounds"][5]
    result["final"] |= {"round": 6, "evaluate": kept["evaluate"]}
    page = Page(render(result))
    assert page.text.count("model kept") == 3, "once in each metric's plot"
    assert f"reached accuracy {kept['evaluate']['accuracy']:.3f}" in page.text
    assert "of 20, kept that of 6" in page.text
    assert "model kept" not in Page(render(make_result())).text


def test_the_large_plot_names_the_sites_that_end_highest_and_lowest():
    result = make_result(sites=6, rounds=9)
    last = {name: site["evaluate"]["accuracy"] for name, site in result["rounds"][-1]["sites"].items()}
    # The model of another round was kept, so the final ranking is not that of the plot's right end.
    result["final"] |= {"round": 2, "sites": {name: {"accuracy": -value} for name, value in last.items()}}
    named = re.findall(r'class="end site named"[^>]*>([^<]+)<', render(result))
    expected = {f"{choose(last, key=last.get)} {choose(last.values()):.3f}" for choose in (min, max)}
    assert set(named) == expected


def test_sites_are_ranked_worst_first_in_the_metric_s_own_direction():
    result = make_result(baselines=False)
    result["job"]["stop"] = {"metric": "loss"}
    result["best"] = None
    losses = {site: values["loss"] for site, values in result["final"]["sites"].items()}
    ranked = [site for site, _ in parse(result).ranked("loss")]
    assert ranked == sorted(losses, key=lambda site: -losses[site])
    assert [site for site, _ in parse(result).ranked("auc")] == ranked


def test_the_report_says_how_to_repeat_the_run_and_names_the_model_by_digest(tmp_path):
    folder = write_run(tmp_path, make_result())
    page = Page(write_report(folder).read_text())
    assert "fedcore run job.yaml --federation federation.yaml --engine embedded" in page.text
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in page.text
    assert "seed 7" in page.text
    assert [each.name for each in folder.glob(".*")] == [], "no unfinished file is left"


def test_a_model_file_outside_the_run_folder_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("x")
    result = make_result()
    result["model"]["file"] = "../secret"
    page = write_report(write_run(tmp_path / "run", result)).read_text()
    assert hashlib.sha256(b"x").hexdigest() not in page


def test_an_interrupted_run_says_how_to_go_on_once(tmp_path):
    result = make_result(status="interrupted")
    folder = write_run(tmp_path / "runs" / "tabular-1", result)
    assert "fedcore resume runs/tabular-1" in Page(write_report(folder).read_text()).text
    result["error"] = {"message": "hospital-2 was lost. Go on with `fedcore resume runs/x`"}
    assert Page(render(result)).text.count("fedcore resume") == 1


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '"text"'])
def test_a_run_folder_without_a_whole_result_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(JobError, match=r"result\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_a_browser_shows_the_report_without_complaint_and_without_the_network(tmp_path):
    result = make_result()
    result["rounds"][3]["lost"][0]["reason"] = HOSTILE
    opened = open_page(write_report(write_run(tmp_path / "run", result)), tmp_path)
    assert opened.console == []
    assert opened.requests == []
    assert opened.dom.count("<section") == 9 and "Federated against alone and pooled" in opened.dom


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_the_browser_would_have_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("boom")</script>')
    opened = open_page(page, tmp_path)
    assert any("boom" in each for each in opened.console)
    assert opened.requests == ["http://127.0.0.1:9/x.png"]
