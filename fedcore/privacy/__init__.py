"""Differential privacy: exact noise, sensitivity, accountants, and the ledger that a data set's budget is kept in."""
