"""Documentation: pages, manual pages, PDFs and texts as documents."""

from cairn.curate.documents.document import documentation_document
from cairn.curate.documents.limits import DocumentationLimits

__all__ = ["DocumentationLimits", "documentation_document"]
