"""Secure set intersection: items, protocols over a channel, and their variants."""
