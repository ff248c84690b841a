"""Compiled inner loops, each beside a plain reference that the tests compare it with."""
