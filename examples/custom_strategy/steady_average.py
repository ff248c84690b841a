"""Steady average: no round moves the model more than `limit` times as far as rounds usually do."""

import numpy as np

from strategies.base import Strategy


class SteadyAverage(Strategy):
    def __init__(self, *, limit: float = 2.0, **settings):
        super().__init__(**settings)
        self.limit = limit

    def update(self, current, mean):
        step = {name: mean[name] - current[name] for name in mean}
        length = np.sqrt(sum(np.sum(move**2) for move in step.values()))
        usual = self.state.get("usual", length)
        longest = self.limit * usual
        self.state["usual"] = 0.8 * usual + 0.2 * min(length, longest)
        scale = min(1.0, longest / length) if length else 1.0
        return {name: current[name] + scale * move for name, move in step.items()}
