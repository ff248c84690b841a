"""A site's data sets as Arrow tables: `read_schema` and `read_table`, whatever the connector."""

from fedcore.participant.data.catalogue import read_schema, read_table

__all__ = ["read_schema", "read_table"]
