"""Results of analytics jobs as a coordinator writes them, made without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYERS = {
    "evidence": "digest",
    "policy": "on",
    "disclosure": "on",
    "privacy": "off",
    "protection": "secagg+",
}
NAMES = [f"hospital-{place}" for place in range(1, 6)]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><style>p{color:red}</style><path d="M0 0h60"/></svg>'
HIDDEN = {"suppressed": True}


def an_answer(**changes: Any) -> dict[str, Any]:
    """Two groups, one of them suppressed."""
    return {
        "kind": "sql",
        "text": "lung by sex: count(*), mean(age)",
        "status": "answered",
        "reason": None,
        "error": None,
        "question": {},
        "sites": NAMES[:4],
        "summed": 4,
        "left_out": [{"party": NAMES[4], "reason": "column 'sex' is text here"}],
        "tables": [
            {
                "title": "lung by sex",
                "heads": ["sex", "count(*)", "mean(age)"],
                "rows": [
                    {"sex": 1, "count(*)": 138, "mean(age)": 63.34057971},
                    {"sex": 2, "count(*)": HIDDEN, "mean(age)": HIDDEN},
                ],
                "notes": ["2 groups"],
            }
        ],
        "files": ["answers/by_sex.csv", "answers/by_sex.json"],
        "suppressed": 2,
        "rounds": 2,
        "seconds": 0.8,
        "bytes": {"down": 4000, "up": 6000},
        "privacy": None,
        "protection": {"asked": 4, "summed": 4, "protocol": "secagg+"},
        **changes,
    }


def a_model(**changes: Any) -> dict[str, Any]:
    """A Cox model with a picture."""
    rows = [
        {"name": "age", "hazard ratio": 1.0112, "se": 0.0092, "p": 0.2273},
        {"name": "sex", "hazard ratio": 0.5754, "se": 0.1680, "p": 0.000986},
    ]
    return an_answer(
        kind="cox",
        text="lung: cox of time, status on age, sex",
        sites=NAMES,
        summed=5,
        left_out=[],
        tables=[{"title": "Cox proportional hazards", "rows": rows, "notes": ["n = 227, events 164"]}],
        files=["answers/hazard.csv", "answers/hazard-curves.svg"],
        suppressed=0,
        rounds=6,
        **changes,
    )


def a_refusal(**changes: Any) -> dict[str, Any]:
    """A question that a site's policy does not allow."""
    error = {
        "type": "PolicyRefused",
        "message": "statistic cox is not allowed here. Cure: ask for count",
        "party": NAMES[1],
        "step": "question",
        "exit_code": 4,
    }
    said = {"status": "refused", "reason": error["message"], "error": error, "tables": [], "files": []}
    said |= {"suppressed": 0, "rounds": 0, "protection": None, "left_out": []}
    return an_answer(**{**said, **changes})


def a_result(answers: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A `result.json` object; all questions have an answer."""
    answers = {"by_sex": an_answer(), "hazard": a_model()} if answers is None else answers
    return {
        "kind": "analytics",
        "name": "lung-survival",
        "run": "lung-survival-1",
        "engine": "deployment",
        "status": "finished",
        "reason": None,
        "job": {
            "kind": "analytics",
            "name": "lung-survival",
            "data": "lung",
            "ask": {name: {} for name in answers},
        },
        "protection": {"secure_aggregation": "secagg+", "differential_privacy": None},
        "participants": [{"name": name, "layers": dict(LAYERS)} for name in NAMES],
        "left_out": [],
        "warnings": [],
        "seconds": 2.5,
        "answers": answers,
        **changes,
    }


def write_run(folder: Path, result: dict[str, Any]) -> Path:
    """A run folder with the files that the answers name."""
    (folder / "answers").mkdir(parents=True)
    (folder / "evidence").mkdir()
    (folder / "result.json").write_text(json.dumps(result))
    for answer in result["answers"].values():
        for file in answer["files"]:
            (folder / file).write_text(SVG if file.endswith(".svg") else "sex,count\r\n")
    return folder
