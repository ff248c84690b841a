"""Placement as a person sees it in the terminal at the end of a run."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from fedcore.coordinator.record_placement import Placements
from fedcore.coordinator.wording_placement import events_text, placed_text, time_text
from fedcore.drawing.markup import plain


def shown(told: Placements, members: int | None = None) -> list[RenderableType]:
    """What the summary of a run says of its placement.

    Args:
        told: Of the run.
        members: Participants in all, of whom a plan may take fewer.
    """
    words = "; ".join(part for part in (placed_text(told, members), time_text(told)) if part)
    parts: list[RenderableType] = [Text(plain(f"{words[0].upper()}{words[1:]}."))]
    broke = events_text(told)
    if broke:
        parts.append(Text(plain(f"{broke}; the report says why"), style="yellow"))
    return parts
