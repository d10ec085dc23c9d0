"""What the server counts, in Prometheus' text format (version 0.0.4)."""

import bisect
import threading
from collections.abc import Iterator, Mapping
from typing import Any

TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LEVELS = frozenset({"slots", "running", "waiting", "pages", "pages_busy", "states_kept"})
"""Facts of an engine's load that go up and down; the others are counters."""

Labels = tuple[tuple[str, str], ...]


class Counter:
    """Numbers that only grow, one for each set of labels."""

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count."""
        key = tuple(labels.items())
        self.values[key] = self.values.get(key, 0) + amount

    def lines(self, name: str) -> Iterator[str]:
        """Its samples."""
        for labels, value in list(self.values.items()):
            yield f"{name}{_labels(labels)} {_number(value)}"


class Histogram:
    """Seconds, counted up to each of `SECONDS`, one histogram for each set of labels."""

    def __init__(self) -> None:
        self.values: dict[Labels, list[float]] = {}

    def observe(self, seconds: float, **labels: str) -> None:
        """Count one."""
        key = tuple(labels.items())
        row = self.values.setdefault(key, [0.0] * (len(SECONDS) + 2))  # counts, over, sum
        row[bisect.bisect_left(SECONDS, seconds)] += 1
        row[-1] += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Its samples; counts are cumulative."""
        for labels, row in list(self.values.items()):
            total = 0.0
            for bound, count in zip([*map(str, SECONDS), "+Inf"], row[:-1], strict=True):
                total += count
                yield f"{name}_bucket{_labels((*labels, ('le', bound)))} {_number(total)}"
            yield f"{name}_sum{_labels(labels)} {_number(row[-1])}"
            yield f"{name}_count{_labels(labels)} {_number(total)}"


class Metrics:
    """All that is counted; safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests, self.request_seconds = Counter(), Histogram()
        self.first, self.between = Histogram(), Histogram()
        self.prompt_tokens, self.completion_tokens = Counter(), Counter()
        self.finished = Counter()

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """An HTTP request was answered."""
        with self._lock:
            self.requests.add(method=method, path=path, status=str(status))
            self.request_seconds.observe(seconds, path=path)

    def token(self, model: str, seconds: float, first: bool) -> None:
        """Tokens came, so long after the request or after those before."""
        with self._lock:
            (self.first if first else self.between).observe(seconds, model=model)

    def completion(self, model: str, reason: str, prompt: int, drawn: int) -> None:
        """A completion ended."""
        with self._lock:
            self.finished.add(model=model, reason=reason)
            self.prompt_tokens.add(prompt, model=model)
            self.completion_tokens.add(drawn, model=model)

    def text(self, loads: Mapping[str, Mapping[str, Any]]) -> str:
        """The exposition; `loads` are facts of each model's engine, numbers by name."""
        lines: list[str] = []

        def family(name: str, kind: str, meaning: str, samples: Iterator[str]) -> None:
            found = list(samples)
            if found:
                lines.extend([f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *found])

        with self._lock:
            for name, source, kind, meaning in (
                ("cairn_requests_total", self.requests, "counter", "HTTP requests answered."),
                (
                    "cairn_request_seconds",
                    self.request_seconds,
                    "histogram",
                    "Until the last byte.",
                ),
                ("cairn_first_token_seconds", self.first, "histogram", "Until a first token."),
                ("cairn_between_tokens_seconds", self.between, "histogram", "Between tokens."),
                ("cairn_prompt_tokens_total", self.prompt_tokens, "counter", "Of all prompts."),
                ("cairn_completion_tokens_total", self.completion_tokens, "counter", "Drawn."),
                ("cairn_completions_total", self.finished, "counter", "Ended, by reason."),
            ):
                family(name, kind, meaning, source.lines(name))
        loads = {model: _flat(load) for model, load in loads.items()}
        facts = dict.fromkeys(fact for load in loads.values() for fact in load)
        for fact in facts:
            level = fact in LEVELS
            name = f"cairn_engine_{fact}" + ("" if level else "_total")
            samples = Counter()
            for model, load in loads.items():
                if isinstance(load.get(fact), int | float):
                    samples.add(load[fact], model=model)
            meaning = f"The engine's {fact.replace('_', ' ')}."
            family(name, "gauge" if level else "counter", meaning, samples.lines(name))
        return "\n".join(lines) + "\n"


def _flat(load: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Facts inside facts by a joined name."""
    found: dict[str, Any] = {}
    for name, value in load.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{before}{name}_") if inner else {before + name: value}
    return found


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    said = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + said + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
