"""Torch models, their data and their local training at a participant."""
