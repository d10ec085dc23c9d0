"""FineTune from end to end: it learns, it keeps the way back, and it can be interrupted."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from cairn.align import FineTune, PairLimits
from cairn.align import finetuning as worker
from cairn.align.finetuning import as_conversation, read_pairs, response_loss
from cairn.align.provenance import files_of_step
from cairn.align.sft import ConversationStream
from cairn.base import Ref, UserError
from cairn.base.make import make
from cairn.engine import Engine, SamplingParams
from cairn.model import load
from cairn.tokens import Tokenizer, TokenShards, prompt_ids
from cairn.train import TrainSettings

from .conftest import PLAN

SETTINGS = TrainSettings(
    steps=12,
    sequences=4,
    sequence_length=384,
    lr=5e-3,
    warmup=2,
    save_every=4,
    device="cpu",
    precision="fp32",
)
CHAT = FineTune(
    start=Ref("base"),
    corpus=Ref("corpus"),
    shards=Ref("shards"),
    settings=SETTINGS,
    heldout_pairs=20,
)


def files_of(folder):
    skipped = {"manifest.json", "metrics.jsonl", "tensorboard"}  # they hold times
    return {
        str(inside): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (inside := path.relative_to(folder)).parts[0] not in skipped
    }


@pytest.fixture(scope="module")
def runs(made, tmp_path_factory):
    """The artifacts with a fine-tuned checkpoint among them."""
    folder = tmp_path_factory.mktemp("chat") / "runs"
    shutil.copytree(made, folder)
    make({**PLAN, "chat": CHAT}, folder)
    return folder


@pytest.fixture(scope="module")
def facts(runs):
    return json.loads((runs / "chat" / "manifest.json").read_text())["facts"]


def test_the_loss_on_heldout_responses_falls(runs, facts):
    assert facts["steps"] == 12
    assert facts["pairs"] > 20
    assert facts["heldout_pairs"] > 3
    assert facts["response_loss"] < facts["response_loss_before"] - 0.3
    headline = json.loads((runs / "chat" / "manifest.json").read_text())["headline"]
    assert "nats per response token" in headline


def test_figures_are_those_of_the_checkpoints(runs, facts):
    tokenizer = Tokenizer.load(runs / "chat")
    held = read_pairs(runs / "chat" / "pairs" / "heldout.parquet")
    asked = [as_conversation(pair, tokenizer) for pair in held]
    asked = [one for one in asked if len(one.ids) <= 384]
    assert len(asked) == facts["heldout_pairs"]
    for name, key in (("base", "response_loss_before"), ("chat", "response_loss")):
        found = response_loss(load(runs / name), tokenizer, asked)
        assert found == pytest.approx(facts[key], abs=2e-5)


def test_pairs_are_of_training_files_and_point_back(runs):
    train = TokenShards.open(runs / "shards" / "train").documents
    held = TokenShards.open(runs / "shards" / "heldout").documents
    for name, own, other in (("train", train, held), ("heldout", held, train)):
        table = pq.read_table(runs / "chat" / "pairs" / f"{name}.parquet")
        assert table.num_rows
        rows = dict(zip(own["ledger_row"].to_pylist(), own["content_id"].to_pylist(), strict=True))
        for row in table.to_pylist():
            assert rows[row["ledger_row"]] == row["content_id"]
            assert row["content_id"] not in other["content_id"].to_pylist()


def test_the_checkpoint_speaks_in_the_chat_layout_and_ends_its_turn(runs):
    engine = Engine(runs / "chat", slots=1, capacity=256)
    tokenizer = Tokenizer.load(runs / "chat")
    end = tokenizer.id("<SPECIAL_12>")
    assert end in json.loads((runs / "chat" / "generation_config.json").read_text())["eos_token_id"]
    ids = prompt_ids([{"role": "user", "content": "Write a function."}], tokenizer)
    (done,) = engine.generate([ids], SamplingParams(max_tokens=40, temperature=0))
    assert done.finish_reason in {"stop", "length"}
    assert not (runs / "chat" / "resume").exists()


def test_again_and_after_interruptions_the_bytes_are_the_same(made, runs, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    shutil.copytree(made, folder)
    plan = {**PLAN, "chat": CHAT}
    batch = ConversationStream.batch

    class Killed(BaseException):
        pass

    def until(steps):
        left = iter(range(steps))

        def counted(self, state):
            if next(left, None) is None:
                raise Killed
            return batch(self, state)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(worker, "pair_table", lambda pairs: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            make(plan, folder)
    for steps in (3, 6):  # before the first save, and between two of them
        with monkeypatch.context() as patch:
            patch.setattr(ConversationStream, "batch", until(steps))
            with pytest.raises(Killed):
                make(plan, folder)
    make(plan, folder)
    assert files_of(folder / "chat") == files_of(runs / "chat")
    one, two = ((f / "chat" / "manifest.json").read_text() for f in (folder, runs))
    assert json.loads(one)["digest"] == json.loads(two)["digest"]
    assert json.loads(one)["facts"] == json.loads(two)["facts"]


def test_a_step_is_traced_to_its_files(runs):
    pairs = read_pairs(runs / "chat" / "pairs" / "train.parquet")
    seen = set()
    for step in range(1, 13):
        files = files_of_step(runs / "chat", step)
        assert files
        assert all(file["swhid"].startswith("swh:1:cnt:") for file in files)
        seen |= {file["path"] for file in files}
    assert seen == {pair.path for pair in pairs}
    with pytest.raises(UserError, match="from 1 to 12"):
        files_of_step(runs / "chat", 13)
    with pytest.raises(UserError, match="made by Pretrain"):
        files_of_step(runs / "base", 1)


def test_fewer_pairs_on_request(made, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(made, folder)
    short = TrainSettings(
        steps=1, sequences=1, sequence_length=384, warmup=0, device="cpu", precision="fp32"
    )
    few = FineTune(
        start=Ref("base"),
        corpus=Ref("corpus"),
        shards=Ref("shards"),
        settings=short,
        most_pairs=9,
        heldout_pairs=0,
    )
    make({**PLAN, "chat": few}, folder)
    manifest = json.loads((folder / "chat" / "manifest.json").read_text())
    assert manifest["facts"]["pairs"] + manifest["facts"]["pairs_left_out"] == 9
    assert manifest["headline"].endswith("no held-out pairs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": PairLimits(least_body=1_199)}, "no Python function"),
        ({"settings": TrainSettings(steps=1, sequence_length=16)}, "holds none of the"),
    ],
)
def test_mistakes_of_the_user_leave_nothing_behind(made, tmp_path, change, message):
    folder = tmp_path / "runs"
    shutil.copytree(made, folder)
    given = {"start": CHAT.start, "corpus": CHAT.corpus, "shards": CHAT.shards}
    recipe = FineTune(**{**given, "settings": SETTINGS, **change})
    with pytest.raises(UserError, match=message):
        make({**PLAN, "chat": recipe}, folder)
    assert not (folder / "chat").exists()
