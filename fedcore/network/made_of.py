"""What a plan was made of, kept beside it: the offers, the map and the policy.

    plan.json  plan.inputs.json

A plan holds digests of them only. With the file beside it, a plan can be judged anew, drawn on its map and compared with
other placements of the same offers, on another machine and long after the offers ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedcore.errors import DataError
from fedcore.network.offer import Offer
from fedcore.network.policy import Policy
from fedcore.network.topology import Topology, TopologyFile, topology_from

FORM = 1
"""Of the file."""


@dataclass(frozen=True, eq=False)
class MadeOf:
    """What a plan was made of.

    Args:
        offers: Of all owners.
        topology: The map.
        policy: By which it was placed.
    """

    offers: tuple[Offer, ...]
    topology: Topology
    policy: Policy


def beside(plan: Path) -> Path:
    """Where the inputs of a plan file are."""
    return plan.with_name(f"{plan.stem}.inputs.json")


def save_made_of(plan: Path, offers: Sequence[Offer], topology: Topology, policy: Policy) -> None:
    """Write what a plan was made of beside its file."""
    told = {
        "form": FORM,
        "policy": policy.model_dump(mode="json", by_alias=True),
        "topology": topology.file.model_dump(mode="json"),
        "offers": [asdict(one) for one in offers],
    }
    path = beside(plan)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def load_made_of(plan: Path) -> MadeOf:
    """What a plan was made of, from the file beside it.

    Raises:
        DataError: There is no such file, or it is not of this form.
    """
    path = beside(plan)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["form"] != FORM:
            raise ValueError(f"form {told['form']}, this release reads form {FORM}")
        offers = tuple(Offer(**{**one, "attested": tuple(one["attested"])}) for one in told["offers"])
        topology = topology_from(TopologyFile.model_validate(told["topology"]))
        return MadeOf(offers, topology, Policy.model_validate(told["policy"]))
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there, and a plan is drawn on the map that it holds") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} does not hold what a plan is made of: {error!r}") from error
