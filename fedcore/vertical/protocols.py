"""What runs in each step of a vertical job, as a report names it."""

from __future__ import annotations

from fedcore.jobs.reveals import BIN, SELECT
from fedcore.jobs.vertical import Boosting, Logistic, VerticalJob
from fedcore.vertical.results import ProtocolFacts
from fedcore.vertical.steps import ALIGN, MODEL

_LATTICE = "ring learning with errors at 128 bits; parties that follow the protocol"


def protocol_of(step: str, job: VerticalJob) -> ProtocolFacts | None:
    """What ran in a step; None where nothing was sent but what a report names otherwise."""
    if step == ALIGN:
        return ProtocolFacts(
            step,
            "set intersection (vole); order and split by a keyed hash (BLAKE2b), the key from random numbers of all parties",
            {"share of test rows": f"{job.split.test:g}"},
            "primal LPN over GF(2) and GF(2^128), Diffie-Hellman in ristretto255, random oracles",
        )
    if step == BIN:
        told = {"most bins": str(job.bin.max_bins), "fewest rows of a bin": str(job.bin.min_rows)}
        return ProtocolFacts(step, "sums of encrypted labels per bin (BFV)", told, _LATTICE)
    if step == SELECT:
        return ProtocolFacts(step, "correlations across parties from encrypted columns (BFV)", {}, _LATTICE)
    if not step.startswith(MODEL):
        return None
    settings = job.models[step.removeprefix(MODEL)]
    if isinstance(settings, Logistic):
        told = {"link": settings.link, "on": settings.on, "l2": f"{settings.l2:g}"}
        name = "generalised linear model on secret shares, products under encryption (after CAESAR, arXiv 2008.08753)"
        return ProtocolFacts(step, name, told, _LATTICE)
    if isinstance(settings, Boosting):
        told = {
            "trees": str(settings.trees),
            "depth": str(settings.depth),
            "fewest rows of a leaf": str(settings.min_leaf),
        }
        name = "boosted trees, sums of encrypted gradients (after SecureBoost, arXiv 1901.08755)"
        return ProtocolFacts(step, name, told, _LATTICE)
    told = {"label protection": settings.protect, "epochs": str(settings.epochs)}
    return ProtocolFacts(step, "split network (arXiv 1812.00564)", told, "none that protects: no encryption")
