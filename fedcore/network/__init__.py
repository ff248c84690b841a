"""The compute network: what nodes can do, where the work of a round is placed, and what it then used."""
