"""The coordinator: a Flower `ServerApp`, its workflows and its stack of grids."""
