"""Set intersection of two parties' rows, seen from one of them."""

from fedcore.participant.intersection.run import PLANTED, RESULT, ROWS, intersect
from fedcore.participant.intersection.side import LEAST_MEMORY, MEMORY, PROTOCOLS, REVEALS, Role, Side, SumOf

__all__ = [
    "LEAST_MEMORY",
    "MEMORY",
    "PLANTED",
    "PROTOCOLS",
    "RESULT",
    "REVEALS",
    "ROWS",
    "Role",
    "Side",
    "SumOf",
    "intersect",
]
