"""Pull requests: rules, differences, and the layout of The Stack v2 (arXiv 2402.19173)."""

from cairn.curate.pulls.document import pull_request_document
from cairn.curate.pulls.limits import PullLimits, drawn, keep_probability

__all__ = ["PullLimits", "drawn", "keep_probability", "pull_request_document"]
