"""Training with differential privacy of single rows, at close to the cost of training without."""
