"""Jupyter notebooks as documents: a script, and text and code with outputs."""

from cairn.curate.notebooks.document import NotebookLimits, notebook_documents

__all__ = ["NotebookLimits", "notebook_documents"]
