"""Jupyter notebooks as documents: a script, text and code with outputs, and Kaggle's layout."""

from cairn.curate.notebooks.document import NotebookLimits, notebook_documents
from cairn.curate.notebooks.kaggle import KaggleLimits, kaggle_document

__all__ = ["KaggleLimits", "NotebookLimits", "kaggle_document", "notebook_documents"]
