"""Does what you wrote run everywhere? The conformance kit for what a developer adds to fedcore.

from fedcore.testing import check_strategy

report = check_strategy("my_package.my_module:MyStrategy")
assert report.passed, report
"""

from fedcore.testing.report import Check, ConformanceReport
from fedcore.testing.strategy import check_strategy

__all__ = ["Check", "ConformanceReport", "check_strategy"]
