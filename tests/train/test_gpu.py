"""Training on a GPU: it follows the CPU in fp32, learns in bf16, and resumes."""

import json
from dataclasses import replace

import pytest
import torch

from cairn.model import build
from cairn.tokens import PretrainingStream
from cairn.train import NextToken, TrainSettings, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SETTINGS = TrainSettings(
    steps=12, sequences=4, sequence_length=64, lr=5e-3, warmup=2, precision="fp32", save_every=5
)


def losses(folder, training, tokenizer, shape, device, settings):
    model = build(replace(shape, vocab_size=tokenizer.vocab_size), seed=1, device=device)
    stream = PretrainingStream(training, tokenizer, 64, seed=5)
    train(model, NextToken(), stream, settings, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_fp32_follows_the_cpu_and_bf16_learns(tmp_path, training, tokenizer, small_model):
    given = (training, tokenizer, small_model)
    host = losses(tmp_path / "cpu", *given, "cpu", SETTINGS)
    there = losses(tmp_path / "gpu", *given, "cuda", SETTINGS)
    assert there == pytest.approx(host, rel=2e-3)
    narrow = losses(tmp_path / "bf16", *given, "cuda", replace(SETTINGS, precision="bf16"))
    assert narrow == pytest.approx(host, rel=2e-2)
    assert narrow[-1] < narrow[0] - 0.3


def test_a_gpu_run_goes_on_from_its_save(tmp_path, training, tokenizer, small_model):
    given = (training, tokenizer, small_model, "cuda")
    whole = losses(tmp_path / "whole", *given, SETTINGS)
    losses(tmp_path / "cut", *given, replace(SETTINGS, steps=5, decay=0.0))
    again = losses(tmp_path / "cut", *given, replace(SETTINGS, decay=0.0))
    uncut = losses(tmp_path / "uncut", *given, replace(SETTINGS, decay=0.0))
    assert again == pytest.approx(uncut, rel=1e-4)
    assert len(again) == len(whole)
