"""The texts of `docs/jobs.md` and its sections; `generate_reference.py` makes the page of them."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel

from fedcore.jobs import (
    analytics,
    asks,
    datasets,
    federation,
    imaging,
    job,
    participant,
    privacy,
    psi,
    secure,
    shape,
    vertical,
)

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

PRIVATE = (
    "What is promised, what it costs and what it rests on: [private-training.md](private-training.md).\n"
)

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
    ("### task: image-segmenter", "", imaging.SegmentationTask),
    ("### augment", "", imaging.Augment),
    ("### task: your own", CUSTOM, job.CustomTask),
    ("### strategy", STRATEGIES, None),
    ("### local", "", job.LocalTraining),
    ("### evaluation", "", job.Evaluation),
    ("### protection", "", job.Protection),
    ("### secure_aggregation", PROTECTED, secure.SecureAggregation),
    ("### differential_privacy: level client", PRIVATE, privacy.ClientPrivacy),
    ("### differential_privacy: level record", PRIVATE, privacy.RecordPrivacy),
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
