"""The engine's thread, where the engine or its device fails."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cairn.engine import Engine, SamplingParams
from cairn.serve.errors import ApiError
from cairn.serve.worker import Job, Worker

LONG = Job("a", SamplingParams(max_tokens=4000, ignore_eos=True))


def test_closing_a_worker_tells_those_who_wait(model, words):
    async def life() -> None:
        worker = Worker(Engine(model, words, slots=1, capacity=4096), most_open=8)
        worker.start()
        ticket = await worker.open([LONG, LONG])
        await worker.close()
        with pytest.raises(ApiError, match="shutting down"):
            await ticket.completions()
        with pytest.raises(ApiError, match="shutting down"):
            await worker.open([LONG])
        assert not worker.alive
        assert not worker.engine.busy
        assert worker.failed is None

    asyncio.run(life())


def test_a_failure_of_the_thread_reaches_everybody(model, words, monkeypatch):
    """Those who run, who are held up by an action, who wait to act, and who come later."""
    engine = Engine(model, words, slots=1, capacity=4096)

    async def life() -> None:
        worker = Worker(engine, most_open=8)
        heard: list[str] = []
        worker.when_failed(heard.append)
        worker.start()
        runs = await worker.open([LONG])
        action = asyncio.create_task(worker.alone(lambda engine: 1))
        await asyncio.sleep(0.05)
        held = await worker.open([LONG])
        monkeypatch.setattr(engine, "abort", lambda request: 1 / 0)
        runs.close()  # what aborts it
        for ticket in (runs, held):
            with pytest.raises(ApiError, match="the engine of this model ended") as refused:
                await ticket.completions()
            assert refused.value.status == 503
        with pytest.raises(ApiError, match="the engine of this model ended"):
            await action
        await worker.close()
        with pytest.raises(ApiError, match="shutting down"):
            await worker.alone(lambda engine: 1)
        assert worker.failed is not None
        assert heard == [worker.failed]
        assert worker.failed.startswith("ZeroDivisionError")

    asyncio.run(life())


def test_a_request_that_cannot_be_let_in_fails_alone(model, words, monkeypatch):
    engine = Engine(model, words, slots=2, capacity=4096)
    prompts = ["b", "once upon a time " * 20]
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in (300, 2)]
    alone = engine.generate(prompts, params)
    beside, short = (Job(prompt, own) for prompt, own in zip(prompts, params, strict=True))

    def restore(slot: int, copy: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("CUDA out of memory")

    async def life() -> None:
        worker = Worker(engine, most_open=8)
        worker.start()
        runs = await worker.open([beside])
        monkeypatch.setattr(engine._runner.pool, "restore", restore)
        fails = await worker.open([short])
        with pytest.raises(ApiError) as refused:
            await fails.completions()
        assert refused.value.status == 500
        again = await worker.open([short])
        assert await again.completions() == alone[1:]
        assert await runs.completions() == alone[:1]
        await worker.close()

    asyncio.run(life())


class Broken:
    """An engine whose every step fails, on a device that is gone too, or is not."""

    model = SimpleNamespace(device=torch.device("cuda"))
    lost = None
    tokenizer = None
    slots = 1
    busy = False

    def prepare(self, *given: object, **more: object) -> object:
        return SimpleNamespace(id=0, prompt=[0])

    def enter(self, sequence: object) -> None:
        self.busy = True

    def step(self) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def abort(self, request: int) -> None:
        self.busy = False

    def __contains__(self, request: int) -> bool:
        return self.busy

    def close(self) -> None:
        pass

    def when_lost(self, hears: object) -> None:
        pass


@pytest.mark.parametrize("gone", [False, True])
def test_a_device_that_is_gone_ends_the_thread_and_a_failed_step_does_not(monkeypatch, gone):
    def synchronize(device: object) -> None:
        if gone:
            raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)

    async def life() -> None:
        worker = Worker(cast(Any, Broken()), most_open=8)
        worker.start()
        ticket = await worker.open([LONG])
        with pytest.raises(ApiError) as refused:
            await ticket.completions()
        assert refused.value.status == (503 if gone else 500)
        assert worker.ending is gone
        await worker.close()
        assert (worker.failed is not None) is gone

    asyncio.run(life())
