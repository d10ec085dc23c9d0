"""Decontamination: no training file may hold an item of a test set (StarCoder2, section 3)."""

from cairn.curate.decontamination.search import Contamination

__all__ = ["Contamination"]
