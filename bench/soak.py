"""What a server bears: many streams at once, many requests in a row, clients that vanish, kill -9.

One JSON line per measurement. A tiny model of random weights, or `--checkpoint`, is served by
`cairn serve` in its own process, on loopback; everything is bounded in count and time. Run it as
`python bench/soak.py [--checkpoint FOLDER] [--streams 500] [--requests 10000] [--vanish 50]`.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from cairn.model import ModelConfig, build, save
from cairn.tokens.learning import learn

PATIENCE = 180.0  # seconds for the server to come up, and for slots to be freed


def checkpoint(folder: Path) -> None:
    """A small hybrid with a tokenizer."""
    words = learn([Path(textwrap.__file__).read_text(encoding="utf-8")], 400)
    config = ModelConfig(
        pattern="M*-",
        vocab_size=words.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        attention_heads=4,
        key_value_heads=2,
        head_dim=8,
        mamba_heads=4,
        mamba_head_dim=8,
        state_size=16,
        groups=2,
        chunk_size=8,
        initializer_range=0.2,
        max_positions=2048,
        eos_token_ids=(0,),
        bos_token_id=0,
    )
    save(build(config, seed=0), folder)
    words.save(folder)


def free_port() -> int:
    """One that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """`cairn serve` in a process of its own."""

    name = "tiny"

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "cairn", "serve", str(folder), "--port", str(port)]
        command += ["--name", self.name, "--slots", "16"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        end = time.monotonic() + PATIENCE
        while not self.state():
            assert self.process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not come up"
            time.sleep(0.1)

    def state(self) -> dict[str, Any]:
        """What /health says; empty where nobody answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).json()
        except httpx.TransportError:
            return {}

    def memory(self) -> int:
        """Bytes of resident memory."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (found,) = [line for line in lines if line.startswith("VmRSS:")]
        return int(found.split()[1]) * 1024

    def idle(self) -> float:
        """Seconds until no request runs or waits."""
        begun = time.monotonic()
        while (state := self.state())["running"] or state["waiting"]:
            assert time.monotonic() < begun + PATIENCE, f"slots are not freed: {state}"
            time.sleep(0.05)
        return time.monotonic() - begun


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, int]:
    """How a stream ended, and how many pieces it had."""
    pieces, last = 0, ""
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as found:
        if found.status_code != 200:
            return str(found.status_code), 0
        async for line in found.aiter_lines():
            if line:
                pieces, last = pieces + 1, line
    return ("done" if last == "data: [DONE]" else "cut"), pieces


async def together(url: str, count: int) -> dict[str, Any]:
    """`count` streams that are all open at the same time."""
    limits = httpx.Limits(max_connections=count)
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        bodies = [
            {"prompt": f"x{seed} =", "seed": seed, "max_tokens": 20, "ignore_eos": True}
            for seed in range(count)
        ]
        ends = await asyncio.gather(*(stream(client, body) for body in bodies))
    seconds = time.monotonic() - begun
    return {"ends": dict(Counter(end for end, _ in ends)), "seconds": round(seconds, 2)}


async def in_a_row(served: Served, count: int, at_once: int = 16) -> dict[str, Any]:
    """`count` requests, `at_once` at a time, and the memory at tenths of the way."""
    statuses: Counter[int] = Counter()
    memory: list[int] = []
    begun, numbers = time.monotonic(), iter(range(count))

    async def one(client: httpx.AsyncClient) -> None:
        for number in numbers:
            body = {"prompt": f"def f{number}(", "max_tokens": 4, "seed": number}
            body["ignore_eos"] = True
            answer = await client.post("/v1/completions", json=body)
            statuses[answer.status_code] += 1
            if number % max(1, count // 10) == 0:
                memory.append(served.memory())

    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(at_once)))
    memory.append(served.memory())
    return {
        "statuses": dict(statuses),
        "seconds": round(time.monotonic() - begun, 1),
        "memory_mib": [round(size / 2**20, 1) for size in memory],
    }


def vanish(served: Served, count: int) -> dict[str, Any]:
    """Clients that ask for long completions and close the connection."""
    port = int(served.url.rsplit(":", 1)[1])
    body = json.dumps({"prompt": "a", "max_tokens": 2000, "stream": True, "ignore_eos": True})
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        clients.append(client)
    end = time.monotonic() + PATIENCE
    while (state := served.state())["running"] + state["waiting"] < count:
        assert time.monotonic() < end, state
        time.sleep(0.05)
    for client in clients:
        client.close()
    return {"clients": count, "seconds_until_idle": round(served.idle(), 2)}


async def killed(served: Served, folder: Path, port: int) -> tuple[dict[str, Any], Served]:
    """kill -9 in the middle of streams, then a restart on the same port."""
    body = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
        tasks = [asyncio.create_task(stream(client, body)) for _ in range(8)]
        await asyncio.sleep(1)
        served.process.send_signal(signal.SIGKILL)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        served.process.wait()
        try:
            await client.get("/health")
            refused = "answered"
        except httpx.TransportError as error:
            refused = type(error).__name__
    begun = time.monotonic()
    again = Served(folder, port)
    answer = httpx.post(f"{again.url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
    names = [type(end).__name__ if isinstance(end, BaseException) else end[0] for end in ends]
    found = {"streams": dict(Counter(names)), "while_down": refused}
    found |= {"status_after": answer.status_code, "restart": round(time.monotonic() - begun, 1)}
    return found, again


def main() -> None:
    """All four."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="of this model, not of random weights")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--vanish", type=int, default=50)
    arguments = parser.parse_args()

    def say(what: str, found: dict[str, Any]) -> None:
        model = str(arguments.checkpoint or "random")
        print(json.dumps({"bench": "soak", "what": what, "model": model, **found}), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = arguments.checkpoint or Path(name) / "tiny"
        if arguments.checkpoint is None:
            checkpoint(folder)
        port = free_port()
        served = Served(folder, port)
        try:
            say("streams", asyncio.run(together(served.url, arguments.streams)))
            say("vanish", vanish(served, arguments.vanish))
            say("requests", asyncio.run(in_a_row(served, arguments.requests)))
            found, served = asyncio.run(killed(served, folder, port))
            say("kill -9", found)
        finally:
            served.process.terminate()
            served.process.wait(30)


if __name__ == "__main__":
    main()
