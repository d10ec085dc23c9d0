"""Distillation: the objective against its definition, and the whole path on real text."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cairn.base import Ref, UserError, read_manifest
from cairn.base.make import make
from cairn.compress import Distill, Prune
from cairn.compress.distill import Distillation
from cairn.model import build, load
from cairn.tokens import LearnTokenizer, Tokenize
from cairn.tokens.batch import Batch
from cairn.train import Pretrain, TrainSettings
from cairn.train.objective import Tokens

SETTINGS = TrainSettings(steps=30, sequences=4, sequence_length=64, lr=3e-3, warmup=5)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_loss_is_kl_at_the_tokens_that_count(small_model):
    shape = replace(small_model, vocab_size=40)
    student, teacher = build(shape, seed=1), build(shape, seed=2)
    ids = np.arange(12, dtype=np.int64)
    weights = np.zeros(12, np.float32)
    weights[[3, 8]] = 1.0
    batch = Batch(ids, np.roll(ids, -1), weights, np.array([0, 12], np.int32), [])
    given = Tokens.of(batch, student.device)
    loss = Distillation(teacher, temperature=2.0, cross_entropy=0.5)(student, given)
    with torch.no_grad():
        own = student(given.tokens, given.spans)
        p = (teacher(given.tokens, given.spans) / 2).log_softmax(-1)
        kl = (p.exp() * (p - (own / 2).log_softmax(-1))).sum(-1)
        entropy = -own.log_softmax(-1)[torch.arange(12), given.targets]
    expected = (given.weights * (kl + 0.5 * entropy)).sum()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.count == 2.0
    loss.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_model, few_files):
    plan = {
        "corpus": few_files,
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=512),
        "shards": Tokenize(corpus=Ref("corpus"), tokenizer=Ref("words"), heldout=0.3),
        "base": Pretrain(model=small_model, shards=Ref("shards"), settings=SETTINGS),
        "pruned": Prune(start=Ref("base"), shards=Ref("shards"), hidden_size=24, windows=8),
        "child": Distill(
            start=Ref("pruned"), teacher=Ref("base"), shards=Ref("shards"), settings=SETTINGS
        ),
    }
    folder = tmp_path_factory.mktemp("distilled")
    make(plan, folder)
    return folder


def test_a_pruned_child_learns_from_its_parent(run):
    child = read_manifest(run / "child").facts
    pruned = read_manifest(run / "pruned").facts
    base = read_manifest(run / "base").facts
    assert pruned["parameters"] == child["parameters"] < base["parameters"]
    assert child["bits_per_byte_before"] == pruned["bits_per_byte"]
    assert child["bits_per_byte_of_teacher"] == base["bits_per_byte"]
    assert child["bits_per_byte"] < child["bits_per_byte_before"]
    assert (run / "pruned" / "ranking.json").exists()


def test_the_pruned_child_gives_the_same_logits_in_transformers(run):
    transformers = pytest.importorskip("transformers")
    ours = load(run / "pruned", dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run / "pruned").float().eval()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.allclose(ours.logits(ids), theirs(ids, use_cache=False).logits, atol=1e-4)


def test_a_teacher_of_another_tokenizer_is_refused(run, tmp_path):
    from cairn.base import Work

    build_other = build(replace(load(run / "base").config, vocab_size=64), seed=0)
    from cairn.model import save

    save(build_other, tmp_path / "other")
    recipe = Distill(
        start=Ref("pruned"), teacher=Ref("other"), shards=Ref("shards"), settings=SETTINGS
    )
    manifest = read_manifest(run / "pruned")
    parents = {name: (run / name, manifest) for name in ("pruned", "shards")}
    parents["other"] = (tmp_path / "other", manifest)
    with pytest.raises(UserError, match="teacher='other': has 64 tokens, the student 512"):
        recipe.run(Work(tmp_path / "out", parents))
