"""Grids that wrap grids: who is asked, what is recorded, how replies are summed."""
