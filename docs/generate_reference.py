"""Write `docs/jobs.md`: every key of every file, from the schemas in `fedcore.jobs` and the strategy registry.

    python docs/generate_reference.py            # writes docs/jobs.md
    python docs/generate_reference.py --check    # exit code 1 when the page is not what this would write

What a key means is taken from its model's docstring: the `Args:` section, or the string below the field. A key
without either is an error, so that none is added unexplained.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedcore.jobs import (
    analytics,
    asks,
    common,
    datasets,
    federation,
    job,
    participant,
    psi,
    secure,
    shape,
    vertical,
)
from strategies import registry

PAGE = Path(__file__).resolve().parent / "jobs.md"

INTRODUCTION = """\
<!-- Written by docs/generate_reference.py from the schemas in fedcore/jobs. Do not edit by hand. -->

# Job, federation and participant files

Three kinds of YAML file. A **job** says what is to be done, a **federation** who takes part and where, a
**participant** file, kept at the site, what the site has and what it allows. A fourth, the **roster**, pins
names to public keys for engine `deployment`.

Keys that are not on this page are errors; the message names the nearest one that is. `fedcore validate FILE...`
lists all problems of files at once, with their lines; `fedcore validate --show FILE` prints a file with every
default filled in. Paths are relative to the file in which they stand.

In the tables, **needed** stands where there is no default. A *name* is text of letters, digits, `.`, `_` and `-`
that begins with a letter or digit; a *duration* is a number of seconds or text such as `"90s"`, `"10m"`, `"2h"`;
*memory* is a number of bytes or text such as `"512MB"`, `"16GB"`; an *address* is `host:port`.
"""

JOB = """\
```yaml
kind: train
name: hospital-tabular
data: breast-cancer                 # a name in each participant's catalogue
task: {use: tabular-classifier, target: malignant, model: mlp}
strategy: {use: fedadam, server_lr: 0.1}
rounds: 20
local: {epochs: 1, batch_size: 32, lr: 0.05}
```
"""

INTERSECTION = """\
```yaml
kind: psi
name: shared-customers
parties:
  bank-a:    {data: customers,   key: [id_type, id_number]}
  telecom-b: {data: subscribers, key: [id_type, id_number]}
protocol: vole
reveal: {what: rows, to: [bank-a, telecom-b]}
```

What happens then, what a party must allow, and who learns what: [intersection.md](intersection.md).
"""

JOINT = """\
```yaml
kind: vertical
name: bank-risk
purpose: credit-risk
label: {party: bank-a, column: default_90d}
parties:
  bank-a:    {data: applications, key: id_number}
  telecom-b: {data: usage, key: id_number}
split: {test: 0.2, out_of_time: {column: month, from: 2026-07}}
models:
  champion:   {use: logistic, scorecard: {base: 600, odds: 20, pdo: 20}}
  challenger: {use: boosting, trees: 40, depth: 3}
```

Steps: `align`, `bin`, `select`, `model:NAME` for each model, `score`, `report`; without a label of 0 or 1 there is neither
`bin` nor `select`. A run that stops goes on with the first step that not all parties have finished (`fedcore resume`).
A key that matches and stands in several rows of a party is refused.
"""

QUESTIONS = """\
```yaml
kind: analytics
name: lung-survival
data: lung                          # a name in each participant's catalogue
ask:
  by_sex: "SELECT sex, count(*), avg(age), quantile(time, 0.5) FROM lung GROUP BY sex"
  curve:  {kaplan_meier: {time: time, event: status, by: sex}}
  hazard: {cox: {time: time, event: status, covariates: [age, sex], strata: site}}
protection: {secure_aggregation: secagg+}
```

What each question gives, what is suppressed, and who learns what: [analytics.md](analytics.md).
"""

ASK = "A question under its name is SQL, as text, or one of the kinds below. What they have in common stands first.\n"

STRATEGIES = """\
An aggregation strategy: `strategy: {use: NAME, PARAMETER: VALUE}`; `fedavg` when there is no such key. One of
your own, or any of Flower's, is named `package.module:Class`; its parameters are then those of its constructor
([strategies.md](strategies.md)).

*Mean only* says whether the weighted mean of the sites' updates is all that the strategy needs, so that a
protection which reveals nothing but a sum could serve it. *Site half* says whether the algorithm also changes
what a site does.
"""

FEDERATION = """\
```yaml
name: five-hospitals
engine: embedded                    # embedded | simulation | deployment; --engine overrides
participants: [hospital-1.yaml, hospital-2.yaml, hospital-3.yaml, hospital-4.yaml, hospital-5.yaml]
```

Many participants made from one data set, for a simulation:

```yaml
name: a-hundred-sites
virtual:
  count: 100
  name: digits                      # as jobs call it
  data: {connector: parquet, path: data/digits.parquet}
  split: dirichlet
  label: digit
  alpha: 0.5
```
"""

NETWORK = """\
```yaml
name: five-hospitals
participants: [hospital-1.yaml, hospital-2.yaml, hospital-3.yaml, hospital-4.yaml, hospital-5.yaml]
network: {map: ../networks/eight_hubs.yaml, root: zhangjiakou}
```

Jobs with `placement` are placed on it; maps, policies and the files of nodes: [network.md](network.md).
"""

PARTICIPANT = """\
```yaml
name: hospital-1
catalogue:
  breast-cancer: {connector: parquet, path: data/breast.parquet, row_id: patient}
policy:
  rules:
    - {jobs: [train], data: breast-cancer, columns: all, purpose: research, min_cohort: 3}
  code: [fedcore, strategies]
resources: {gpus: auto, memory: 4GB}
```

For `psi` jobs a rule names the peers and what they may learn; on engine `deployment` the file pins their keys:

```yaml
name: bank-a
catalogue:
  customers: {connector: parquet, path: data/customers.parquet}
peers:
  telecom-b: {public_key: "ecdsa-sha2-nistp384 AAAAE2VjZHNh..."}
inbound: {address: "bank-a.example:9443", listen: 0.0.0.0}
policy:
  rules:
    - {jobs: [psi], data: customers, columns: [id_type, id_number], peers: [telecom-b], reveal: {rows: [telecom-b]}}
```

For `vertical` jobs the rule says of each thing that others learn who may learn it; what a job needs, and is refused
without, follows from its models:

```yaml
policy:
  rules:
    - jobs: [vertical]
      data: usage
      purpose: credit-risk
      peers: [bank-a]
      reveal: {rows: [bank-a], totals: [bank-a], correlation: [bank-a],
               splits: [bank-a], scores: [bank-a]}
```

What a rule holds back, and what it does not, stands in [security.md](security.md).
"""

DATA_SETS = """\
What stands under a name in a participant's `catalogue`, in a job's `evaluation.central` and in a federation's
`virtual.data`. The key `connector` says which of the following it is. Each may also have:
"""

ROSTER = """\
For engine `deployment`; [deployment.md](deployment.md) shows how one is made.

```yaml
members:
  coordinator: {public_key: "ecdsa-sha2-nistp384 AAAAE2VjZHNh...", role: coordinator}
  hospital-1: {public_key: "ecdsa-sha2-nistp384 AAAAE2VjZHNh...", contact: data office}
```
"""

PROTECTED = """\
```yaml
protection: {secure_aggregation: secagg+}
```

| `protocol` | The coordinator alone | together with participants | A site sends | Needs |
|---|---|---|---|---|
| `secagg+` | reads sums, whatever it says to whom | reads no single update below a threshold | 4 bytes a value, and some hundred for each neighbour | |
| `threshold` | reads sums, whatever it says to whom | reads no single update below a threshold, if these follow the protocol | 4.5 bytes a value, and 220 kB | |
| `ckks` | reads sums, if it follows the protocol | reads each update | 6 or 7 bytes a value | `adversary: curious`, `pip install 'fedcore[ckks]'` |
| `paillier` | reads sums, if it follows the protocol | reads each update | 8 bytes a value, slowly: for short vectors | `adversary: curious`, `pip install 'fedcore[paillier]'` |

```yaml
protection: {secure_aggregation: {protocol: ckks, adversary: curious}}
```

All four give the strategy the same mean, to the error that `bits` and `clip` make; `result.json` says for each round how
large it may be, and how large it was found to be. Who learns what then, and what it does not protect:
[security.md](security.md#secure-aggregation). Strategies that need more than the mean of the updates (the table above
says which) are refused before round 1, and so is `baselines: [local]`.
"""

CUSTOM = "How one is written is told in [tasks.md](tasks.md).\n"

ASKED: dict[str, type[BaseModel]] = {
    name: shape.plain(annotation)
    for name, annotation in shape.fields(asks.Question).items()
    if shape.is_model(shape.plain(annotation))
}
"""Kinds of question that are a model."""

SECTIONS: tuple[tuple[str, str, type[BaseModel] | None], ...] = (
    ("## Job: train", JOB, job.TrainJob),
    ("### participants", "", job.Participants),
    ("### task: tabular-classifier", "", job.TabularTask),
    ("### task: image-classifier", "", job.ImageTask),
    ("### task: your own", CUSTOM, job.CustomTask),
    ("### strategy", STRATEGIES, None),
    ("### local", "", job.LocalTraining),
    ("### evaluation", "", job.Evaluation),
    ("### protection", "", job.Protection),
    ("### secure_aggregation", PROTECTED, secure.SecureAggregation),
    ("### stop", "", job.Stop),
    ("## Job: psi", INTERSECTION, psi.PsiJob),
    ("### parties", "", psi.PsiParty),
    ("### reveal", "", psi.Reveal),
    ("### items", "", psi.Items),
    ("## Job: vertical", JOINT, vertical.VerticalJob),
    ("### label", "", vertical.Label),
    ("### vertical: parties", "", vertical.VerticalParty),
    ("### split", "", vertical.Split),
    ("### out_of_time", "", vertical.OutOfTime),
    ("### bin", "", vertical.Bin),
    ("### select", "", vertical.Select),
    ("### model: logistic", "", vertical.Logistic),
    ("### scorecard", "", vertical.Scorecard),
    ("### model: boosting", "", vertical.Boosting),
    ("### model: split-network", "", vertical.SplitNetwork),
    ("## Job: analytics", QUESTIONS, analytics.AnalyticsJob),
    ("### analytics: participants", "", analytics.Askers),
    ("### ask", ASK, asks.Question),
    ("### ask: every kind", "", asks.Ask),
    *((f"### ask: {name}", "", model) for name, model in ASKED.items()),
    ("### analytics: protection", "", analytics.AnswerProtection),
    ("### analytics: differential_privacy", "", analytics.AnswerPrivacy),
    ("## Federation", FEDERATION, federation.Federation),
    ("### coordinator", "", federation.Coordinator),
    ("### relay", "", federation.Relay),
    ("### network", NETWORK, federation.ComputeNetwork),
    ("### virtual", "", federation.Virtual),
    ("### embedded", "", federation.EmbeddedOptions),
    ("### simulation", "", federation.SimulationOptions),
    ("## Participant", PARTICIPANT, participant.Participant),
    ("### policy", "", participant.Policy),
    ("### policy: secure_aggregation", "", participant.Aggregated),
    ("### policy: approval", "", participant.Approval),
    ("### policy: privacy", "", participant.SiteBudget),
    ("### rules", "", participant.Rule),
    ("### rules: reveal", "", participant.Revealed),
    ("### resources", "", participant.Resources),
    ("### peers", "", participant.PinnedPeer),
    ("### inbound", "", participant.Inbound),
    ("## Data sets", DATA_SETS, datasets._DataSet),
    *(
        (f"### {shape.literals(shape.fields(kind)['connector'])[0]}", "", kind)
        for kind in get_args(shape.plain(datasets.DataSet))
    ),
    ("### part", "", datasets.Part),
    ("## Roster", ROSTER, federation.Roster),
    ("### members", "", federation.RosterEntry),
)

_TITLES = {model: heading.lstrip("# ") for heading, _, model in SECTIONS if model is not None}
_TITLES[job.Strategy] = "strategy"
_ALSO = {"path": "The file or folder.", "confidence": "Level of the intervals."}
"""What a key means that several models have."""

_CHOOSING = {
    "use": "Says which task or model it is.",
    "connector": "Says which connector it is.",
    "kind": "The kind of job.",
}
"""Keys whose value selects the model."""

_BOUNDS = {"ge": "≥ {:g}", "gt": "> {:g}", "le": "≤ {:g}", "lt": "< {:g}"}
_SHORT = 2**31
"""Bounds beyond this are of the machine, not of the matter."""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for heading, text, model in SECTIONS:
        parts.append(f"{heading}\n")
        if model not in (None, datasets._DataSet):
            parts.append(summary(model))
        parts.append(text)
        parts.append(strategies() if model is None else table(model))
    return "\n".join(part for part in parts if part)


def summary(model: type[BaseModel] | None) -> str:
    """The model's docstring before its `Args:`."""
    return (inspect.getdoc(model) or "").split("\nArgs:")[0].strip() + "\n"


def table(model: type[BaseModel]) -> str:
    """One line per key.

    Raises:
        ValueError: A key has no meaning.
    """
    shared: tuple[type[BaseModel], ...] = (datasets._DataSet, asks.Ask)
    inherited = {
        name for each in shared if issubclass(model, each) and model is not each for name in each.model_fields
    }
    # What a kind of question shares with others is told by the one that it is made from.
    line = [each for each in reversed(model.__mro__) if each.__module__ == asks.__name__] or [model]
    meanings = {**_ALSO, **_CHOOSING, **{key: text for each in line for key, text in _meanings(each)}}
    lines = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    annotations = shape.fields(model)
    for name, info in model.model_fields.items():
        if name in inherited:
            continue
        key = info.alias or name
        linked = _linked(annotations[key])
        meaning = (
            meanings.get(key)
            or meanings.get(name)
            or (f"See [{linked}](#{anchor(linked)})." if linked else "")
        )
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no meaning; add it to the Args: of its docstring")
        cells = (f"`{key}`", _value(annotations[key], info), _default(info), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def strategies() -> str:
    """The strategies that have a name, with their parameters."""
    lines = ["| `use` | Parameters (default) | Mean only | Site half |", "|---|---|---|---|"]
    for name in registry.names():
        entry = registry.resolve(name)
        parameters = [
            f"`{info.name}` ({'needed' if info.required else _yaml(info.default)}{'; ' if info.allowed else ''}{info.allowed})"
            for info in registry.allowed_parameters(name).values()
        ]
        cells = (
            f"`{name}`",
            ", ".join(parameters) or "none",
            _yes(entry.summable),
            _yes(entry.client is not None),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def anchor(title: str) -> str:
    """The link target that GitHub makes of a heading."""
    return re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")


def _meanings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Key and meaning: from the strings below fields and from `Args:`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, below in itertools.pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(below, ast.Expr)
            and isinstance(field.target, ast.Name)
        ):
            yield field.target.id, " ".join(ast.literal_eval(below.value).split())
    section = (inspect.getdoc(model) or "").partition("\nArgs:\n")[2].split("\n\n")[0]
    for entry in re.split(r"\n(?= {4}\S)", section):
        names, _, text = entry.strip().partition(": ")
        for name in filter(None, re.split(r",\s*", names)):
            yield name, " ".join(text.split()).replace("`fedcore.jobs.datasets.Part`", "[part](#part)")


def _linked(annotation: Any) -> str | None:
    """The section that tells more of a value."""
    inner = shape.plain(annotation)
    if get_origin(inner) in (dict, tuple):
        inner = shape.plain(get_args(inner)[1 if get_origin(inner) is dict else 0])
    if inner == shape.plain(datasets.DataSet):
        return "Data sets"
    return _TITLES.get(inner) if shape.is_model(inner) else None


def _value(annotation: Any, info: FieldInfo) -> str:
    """What may stand there."""
    plain, linked = shape.plain(annotation), _linked(annotation)
    if plain == shape.plain(job.Task):
        kinds = [_TITLES[kind] for kind in (job.TabularTask, job.ImageTask, job.CustomTask)]
        return ", ".join(f"[{kind.removeprefix('task: ')}](#{anchor(kind)})" for kind in kinds)
    if get_origin(plain) is dict and shape.plain(get_args(plain)[1]) == shape.plain(vertical.Model):
        kinds = [_TITLES[kind] for kind in (vertical.Logistic, vertical.Boosting, vertical.SplitNetwork)]
        listed = ", ".join(f"[{kind.removeprefix('model: ')}](#{anchor(kind)})" for kind in kinds)
        return f"mapping of name to {listed}"
    if linked:
        of_many = {dict: "mapping of name to ", tuple: "list of "}.get(get_origin(plain), "")
        return f"{of_many}[{linked}](#{anchor(linked)})"
    if _same(annotation, common.Seconds):
        return "duration"
    if _same(annotation, common.Bytes):
        return "memory"
    if _same(annotation, common.Address):
        return "address"
    if get_origin(plain) is Literal:
        return _listed(plain)
    if get_origin(plain) is tuple:
        return _words(plain)
    if words := shape.literals(plain):
        # A union of words and something else, such as `int | Literal["auto"]`.
        rest = [part for part in get_args(plain) if get_origin(part) is not Literal]
        return " or ".join([*(f"`{word}`" for word in words), *(_words(part) for part in rest)])
    if _same(annotation, common.Name):
        return "name"
    return _words(plain) + _bounds(info)


def _words(annotation: Any) -> str:
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        if get_origin(inner) is Literal:
            return f"list of {_listed(inner)}"
        if _same(inner, common.Name):
            return "list of names"
    return "mapping" if get_origin(annotation) is dict else shape.describe(annotation).removeprefix("a ")


def _listed(literal: Any) -> str:
    return ", ".join(f"`{word}`" for word in get_args(literal))


def _same(annotation: Any, other: Any) -> bool:
    """Whether an annotation is one of `fedcore.jobs.common`, optional or not."""
    marks = get_args(other)[1:]
    return (
        annotation == other
        or any(part == other for part in get_args(annotation))
        or (bool(marks) and getattr(annotation, "__metadata__", None) == marks)
    )


def _bounds(info: FieldInfo) -> str:
    found = [
        form.format(getattr(each, name))
        for each in info.metadata
        for name, form in _BOUNDS.items()
        if getattr(each, name, None) is not None and abs(getattr(each, name)) < _SHORT
    ]
    return f" {', '.join(found)}" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**needed**"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A default as it may stand in a file."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 10**9 and value % 10**9 == 0:
        return f"{value // 10**9}GB"
    if isinstance(value, str):
        return (
            value
            if re.fullmatch(r"[A-Za-z][\w./:-]*", value) and value not in ("null", "NULL")
            else json.dumps(value)
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _yes(value: bool | None) -> str:
    return "yes" if value else "no"


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
