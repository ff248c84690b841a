"""The sides of each comparison: programs that a benchmark starts as fresh processes."""
