"""The connection between two parties: frames, the channel over them, and what carries it."""
