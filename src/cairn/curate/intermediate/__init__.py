"""Intermediate representations: programs beside the LLVM IR that a compiler makes of them."""

from cairn.curate.intermediate.compilers import Compiler, available
from cairn.curate.intermediate.document import IntermediateLimits, intermediate_document

__all__ = ["Compiler", "IntermediateLimits", "available", "intermediate_document"]
