"""Client-level privacy over a run: the plan of noise, the rounds that are paid, the clip from round to round.

The plan and how many rounds were begun are kept in the run folder, and are there before a round begins: a round that a
crash cut off may have let noisy sums out, so that doing it again takes another of the rounds that were paid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedcore.coordinator.checkpoint import write_json
from fedcore.coordinator.workflows.settings import Settings
from fedcore.errors import BudgetExhausted, DataError, JobError
from fedcore.flower import NDArray
from fedcore.jobs.job import TrainJob
from fedcore.jobs.privacy import ClientPrivacy, NoisePlan
from fedcore.privacy.clients import ClientNoise, below_clip, check_noise, plan_noise
from fedcore.privacy.exact import check_delta
from strategies.base import is_statistic
from strategies.fedprox import FedProxClient
from strategies.registry import Entry

FILE = "privacy.json"


class PrivateRun:
    """What a run has promised, and what it has made of it.

    Args:
        asked: Of the job.
        noise: The plan.
        file: Where it is kept.
        started: Rounds that were begun before.
        clip: Of the next round.
    """

    def __init__(
        self, asked: ClientPrivacy, noise: ClientNoise, file: Path, started: int, clip: float
    ) -> None:
        self.asked, self.noise, self.file = asked, noise, file
        self.started, self.clip = started, clip
        self.promise = check_noise(noise, asked.epsilon, asked.delta)

    @property
    def plan(self) -> NoisePlan:
        """As it travels."""
        return NoisePlan.model_validate(asdict(self.noise))

    @property
    def left(self) -> int:
        """Rounds that are paid and were not begun."""
        return self.noise.releases - self.started

    def begin(self) -> None:
        """Count a round, on the disk before it begins.

        Raises:
            BudgetExhausted: None is left.
        """
        if self.left < 1:
            raise BudgetExhausted(
                f"the {self.noise.releases} rounds that were paid for were begun, and none was completed; allowed: no more "
                "in this run. Cure: a new run, or spare in protection.differential_privacy",
                party="coordinator",
            )
        self.started += 1
        write_json(self.file, {"plan": asdict(self.noise), "started": self.started})

    def finished(self, summed: int, bits: int | None) -> dict[str, Any]:
        """Take down a round, and set the clip of the next.

        Args:
            summed: Participants in the sum; 0 where there is none.
            bits: Sum of the numbers that tell who was below the clip.
        """
        told: dict[str, Any] = {"clip": self.clip, "summed": summed}
        if bits is not None:
            below = below_clip(bits, self.noise)
            told["below"] = below
            # Andrew et al., section 2.1: a geometric step towards the quantile.
            self.clip *= math.exp(-self.asked.rate * (below - self.asked.quantile))
        told["next_clip"] = self.clip
        return told

    def as_dict(self) -> dict[str, Any]:
        """For the result: what was promised, by whose reckoning, and what of it was used."""
        noise = self.noise
        spent = replace(noise, releases=max(1, self.started)).epsilons(self.asked.delta)
        return {
            "level": self.asked.level,
            "neighbours": noise.neighbours.word,
            "epsilon": self.asked.epsilon,
            "delta": self.asked.delta,
            "mode": self.asked.mode,
            "clipping": self.asked.clipping,
            "clip": self.asked.clip,
            "last_clip": self.clip,
            "participants": noise.participants,
            "sampling": noise.sampling,
            "noise_multiplier": noise.multiplier,
            "noise_in_clips": math.sqrt(noise.variance) / noise.clip_steps,
            "lost_at_most": noise.lost,
            "least_in_sum": noise.present,
            "rounds_paid": noise.releases,
            "rounds_begun": self.started,
            "spent": spent.value if self.started else 0.0,
            "accountants": {
                "pld": self.promise.pld,
                "fourier": self.promise.fourier,
                "rdp": self.promise.rdp,
                "apart": self.promise.apart,
            },
        }


def losses(job: TrainJob, participants: int) -> tuple[int, int]:
    """How many shares of noise a plan does without, and how many participants a sum has at least.

    Args:
        job: Its secure aggregation says who may drop out and who works with the coordinator.
        participants: In all.

    Raises:
        JobError: Nobody would be left whose noise counts.
    """
    asked, privacy = job.protection.secure_aggregation, job.protection.of_client
    if privacy is None or privacy.mode == "local":
        return 0, participants
    dropped = math.ceil(asked.dropout * participants - 1e-9)
    # Each knows its own share.
    told = max(1, math.ceil(asked.corrupt * participants - 1e-9))
    if dropped + told >= participants:
        raise JobError(
            f"of {participants} participants {dropped} may drop out and {told} may know or tell their noise, so that nobody is "
            "left to draw it; more participants, or smaller dropout and corrupt in secure_aggregation",
            party="coordinator",
            step="prepare",
        )
    return dropped + told, participants - dropped


def check_strategy(job: TrainJob, entry: Entry) -> None:
    """Refuse a strategy that needs more than the mean, or sends more than the model's weights.

    Raises:
        JobError: It does.
    """
    if job.protection.of_client is None:
        return
    if entry.summable is not True or entry.client not in (None, FedProxClient):
        raise JobError(
            f"strategy {entry.name} needs single updates, or sends numbers beside the model's weights, which no clip bounds; "
            "under protection.differential_privacy use fedavg, fedprox, fedavgm, fedadam, fedyogi or fedadagrad",
            party="coordinator",
            step="prepare",
        )


def private_run(
    job: TrainJob,
    settings: Settings,
    participants: int,
    arrays: Mapping[str, NDArray],
    rounds: list[dict[str, Any]],
) -> PrivateRun | None:
    """The run's plan, made at its beginning and kept; None where the job asks for no privacy.

    Args:
        job, settings: Of the run.
        participants: That take part.
        arrays: Of the model.
        rounds: That were completed before.

    Raises:
        JobError: The model has more than weights, or the plan cannot be made for so many.
        DataError: The plan of a run that is resumed cannot be read.
    """
    asked = job.protection.of_client
    if asked is None:
        return None
    refuse_counters(arrays)
    file = settings.folder / FILE
    clip = float(rounds[-1]["privacy"]["next_clip"]) if rounds else asked.clip
    if settings.resume and file.exists():
        noise, started = _stored(file)
        if participants < noise.present:
            raise JobError(
                f"{participants} participants are there, and the noise that was planned needs {noise.present} of "
                f"{noise.participants} in a sum; bring them back and resume the run",
                party="coordinator",
                step="prepare",
            )
        return PrivateRun(asked, noise, file, started, clip)
    if check_delta(asked.delta, participants) * participants == 1:
        raise JobError(
            f"delta is {asked.delta:g} with {participants} participants; allowed: below {1 / participants:.3g}",
            party="coordinator",
            step="prepare",
        )
    lost, present = losses(job, participants)
    noise = plan_noise(
        asked.epsilon,
        asked.delta,
        change=asked.change(job.participants.fraction),
        participants=participants,
        lost=lost,
        present=present,
        releases=job.rounds + asked.spare,
        sampling=job.participants.fraction,
        dimension=sum(each.size for each in arrays.values()),
        adaptive=asked.clipping == "adaptive",
        local=asked.mode == "local",
        bits=job.protection.secure_aggregation.bits,
    )
    return PrivateRun(asked, noise, file, 0, clip)


def _stored(file: Path) -> tuple[ClientNoise, int]:
    try:
        told = json.loads(file.read_text())
        plan = NoisePlan.model_validate(told["plan"])
        return ClientNoise(**plan.model_dump()), int(told["started"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file.name} of the run folder cannot be read, so that nobody can tell which rounds were paid; start a new run"
        ) from error


def refuse_counters(arrays: Mapping[str, NDArray]) -> None:
    other = [name for name, value in arrays.items() if value.dtype.kind != "f" or is_statistic(name)]
    if other:
        raise JobError(
            f"the model has {other[0]!r}, a counter or a running statistic of its rows, which no clip bounds; under "
            "protection.differential_privacy use a model without batch normalisation (group or layer normalisation)",
            party="coordinator",
            step="prepare",
        )
