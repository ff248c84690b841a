"""Statistics and models over sites: what a site sums, and what a sum over sites means."""

from fedcore.analytics.query import Query

__all__ = ["Query"]
