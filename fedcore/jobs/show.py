"""A file with every default filled in, as `fedcore validate --show` prints it."""

from __future__ import annotations

import io
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from fedcore.jobs.job import TrainJob
from fedcore.jobs.participant import Participant


def filled_in(model: BaseModel) -> dict[str, Any]:
    """The model as JSON values, with every default, also those of the strategy's parameters.

    Args:
        model: As `fedcore.jobs.load` returns it.

    Returns:
        Keys and values as they may stand in a file; reading them back gives an equal model.
    """
    data: dict[str, Any] = model.model_dump(mode="json", by_alias=True)
    if isinstance(model, TrainJob):
        data["strategy"] = {**data["strategy"], **_strategy_defaults(model), **model.strategy.parameters}
    if isinstance(model, Participant) and model.state is None:
        data["state"] = f".fedcore/{model.name}"
    return data


def as_yaml(model: BaseModel) -> str:
    """`filled_in` as YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed as None, used as a bool
    yaml.width = 110
    text = io.StringIO()
    yaml.dump(filled_in(model), text)
    return text.getvalue()


def _strategy_defaults(job: TrainJob) -> dict[str, Any]:
    """The parameters of a named strategy that the job leaves out."""
    if ":" in job.strategy.use:
        return {}
    from strategies import registry  # here, because it imports Flower

    given, simple = job.strategy.parameters, (bool, int, float, str)
    return {
        info.name: info.default
        for info in registry.allowed_parameters(job.strategy.use).values()
        if isinstance(info.default, simple) and info.keyword not in given
    }
