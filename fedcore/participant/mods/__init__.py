"""The layers of the release gate, outermost first: guard, evidence, policy."""
