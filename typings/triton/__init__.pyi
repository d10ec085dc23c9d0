# Triton's decorators and its language are read by its own compiler: to pyright all of it is Any, installed or not.
from typing import Any

def __getattr__(name: str) -> Any: ...
