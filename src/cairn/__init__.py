"""cairn: an end-to-end factory for efficient language models, with the way back to every source."""

__version__ = "0.1.0"
