"""The models of a server, by name."""

from collections.abc import Iterator
from dataclasses import dataclass

from cairn.serve.errors import ApiError
from cairn.serve.limits import Limits
from cairn.serve.worker import Worker
from cairn.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Service:
    """One model: what the endpoints work with."""

    worker: Worker
    tokenizer: Tokenizer
    name: str
    limits: Limits


class Models:
    """All of them; the first is taken where a request names none."""

    def __init__(self, services: list[Service]) -> None:
        self._services = {service.name: service for service in services}
        self._first = services[0]

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def named(self, name: str | None) -> Service:
        """The model of that name; ApiError 404 for one that is not served."""
        if name is None:
            return self._first
        found = self._services.get(name)
        if found is None:
            known = ", ".join(repr(known) for known in self._services)
            message = f"model: {name[:100]!r} is not served here, {known} is"
            raise ApiError(404, message, "model", "model_not_found")
        return found
