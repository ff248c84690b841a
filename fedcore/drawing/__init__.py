"""Pages and pictures without scripts: markup, axes, numbers as text, the parts of a report."""
