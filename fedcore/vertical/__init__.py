"""Models over columns of several parties about the same people: a label holder and its partners."""
