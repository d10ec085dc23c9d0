"""Throughput and latency over HTTP: first token, between tokens, p50 and p99.

One JSON line per measurement. `cairn serve` runs a small hybrid of random weights (or
`--checkpoint`) in its own process on loopback; `--also NAME=URL` measures any other
OpenAI-compatible server by the same requests. With `--concurrency N` so many clients ask one
after the other; with `--rate R` requests come at R a second at random (a Poisson process),
whether or not earlier ones are answered. Run it as
`python bench/serving_http.py [--input 64 512] [--output 64] [--concurrency 1 8] [--rate 4]`.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from serving import SHAPES

from cairn.model import build, save
from cairn.tokens.learning import learn

MOST_SECONDS = 120.0  # of one measurement


@dataclass
class Times:
    """Of one request, in seconds."""

    first: float = 0.0
    between: list[float] = field(default_factory=list)
    whole: float = 0.0
    tokens: int = 0


def small(folder: Path) -> None:
    """A hybrid of about two million parameters, with a tokenizer."""
    words = learn([Path(textwrap.__file__).read_text(encoding="utf-8")], 600)
    config = replace(SHAPES["small"], vocab_size=words.vocab_size, max_positions=4096)
    save(build(config, seed=0), folder)
    words.save(folder)


@contextmanager
def served(folder: Path, threads: int) -> Iterator[str]:
    """`cairn serve` of a checkpoint; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cairn", "serve", str(folder), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/health", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < end, "the server does not come up"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def ask(client: httpx.AsyncClient, model: str, prompt: list[int], output: int) -> Times:
    """One streamed completion."""
    body = {"model": model, "prompt": prompt, "max_tokens": output, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    found, begun = Times(), time.perf_counter()
    last = begun
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now, chunk = time.perf_counter(), json.loads(line[6:])
            if chunk.get("usage"):
                found.tokens = chunk["usage"]["completion_tokens"]
            if chunk["choices"]:
                if found.first:
                    found.between.append(now - last)
                else:
                    found.first = now - begun
                last = now
    found.whole = time.perf_counter() - begun
    return found


async def measure(
    url: str, lengths: tuple[int, int], count: int, at_once: int | None, rate: float | None
) -> dict[str, Any]:
    """`count` requests, `at_once` at a time or `rate` a second."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=MOST_SECONDS, limits=limits) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        draws = random.Random(0)
        prompts = [[draws.randrange(50, 500) for _ in range(lengths[0])] for _ in range(count)]
        await ask(client, model, prompts[0][::-1], 4)  # warm
        begun = time.perf_counter()
        if rate is None:
            numbers, times = iter(range(count)), []

            async def one() -> None:
                for number in numbers:
                    times.append(await ask(client, model, prompts[number], lengths[1]))

            await asyncio.gather(*(one() for _ in range(at_once or 1)))
        else:
            tasks = []
            for prompt in prompts:
                tasks.append(asyncio.create_task(ask(client, model, prompt, lengths[1])))
                await asyncio.sleep(draws.expovariate(rate))
            times = list(await asyncio.gather(*tasks))
        seconds = time.perf_counter() - begun
    between = [gap for one in times for gap in one.between]
    each = [(one.whole - one.first) / max(1, one.tokens - 1) for one in times]
    return {
        "requests": count,
        "tokens_per_second": round(sum(one.tokens for one in times) / seconds, 1),
        "first_ms": _percentiles([one.first for one in times]),
        "token_ms": _percentiles(each),  # a request's mean after its first event
        "event_ms": _percentiles(between),  # a token of half a character makes no event
        "whole_ms": _percentiles([one.whole for one in times]),
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    places = {"p50": len(ordered) // 2, "p99": min(len(ordered) - 1, int(len(ordered) * 0.99))}
    return {name: round(ordered[place] * 1000, 2) for name, place in places.items()}


def main() -> None:
    """Every server, every mix of lengths and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--input", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--output", type=int, nargs="+", default=[64])
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rate", type=float, nargs="*", default=[4.0])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    loads: list[tuple[int | None, float | None]] = [(n, None) for n in arguments.concurrency]
    loads += [(None, rate) for rate in arguments.rate]
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.checkpoint or Path(name) / "small"
        if arguments.checkpoint is None:
            small(folder)
        with served(folder, arguments.threads) as own:
            servers = {"cairn": own} | dict(text.split("=", 1) for text in arguments.also)
            for size in arguments.input:
                for drawn in arguments.output:
                    for at_once, rate in loads:
                        for server, url in servers.items():
                            case = {"server": server, "input": size, "output": drawn}
                            case |= {"concurrency": at_once, "rate": rate}
                            lengths = (size, drawn)
                            count = arguments.requests
                            found = asyncio.run(measure(url, lengths, count, at_once, rate))
                            line = {"bench": "serving_http", **case, **found}
                            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
