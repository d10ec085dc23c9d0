"""Test sets against files: the exact rule, near copies, and what must not be dropped."""

import gzip
import json
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.curate.decontamination import Contamination
from cairn.curate.decontamination.benchmarks import GENERIC_SOLUTIONS, Item, read_items
from cairn.curate.decontamination.exact import ExactSearch
from cairn.curate.decontamination.overlap import RUN, OverlapSearch
from cairn.curate.decontamination.search import (
    digest_of_benchmarks,
    letters_and_digits,
    without_whitespace,
)

ABOVE = (
    "import os\n\n\ndef walk(root):\n    for name in os.listdir(root):\n        print(name)\n\n\n"
)
BELOW = "\n\nif __name__ == '__main__':\n    walk('.')\n"


def other_layout(text: str) -> str:
    """The same text with other whitespace and other letters' case."""
    spread = re.sub(r"\s+", " \n\t\u00a0 ", text.swapcase())
    return ABOVE + "        " + spread + BELOW


# --- the searches against plain definitions ---


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_exact_search_is_substring_search(data):
    alphabet = st.sampled_from([b"ab", b"abcdefgh", bytes(range(256))]).map(list)
    letters = data.draw(alphabet)
    blob = st.lists(st.sampled_from(letters), max_size=70).map(bytes)
    text = data.draw(st.lists(blob, max_size=6).map(b"".join))
    patterns = data.draw(st.lists(blob.filter(len), max_size=8, unique=True))
    for _ in range(data.draw(st.integers(0, 4))):  # some that the text holds
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 90)))
        if stop > start and text[start:stop] not in patterns:
            patterns.append(text[start:stop])
    expected = min((n for n, one in enumerate(patterns) if one in text), default=None)
    assert ExactSearch(patterns).find(text) == expected


def test_every_length_is_found_at_every_place():
    rng = random.Random(0)
    whole = rng.randbytes(400)
    for length in [*range(1, 64), 100, 300]:
        search = ExactSearch([whole[50 : 50 + length]])
        for shift in range(8):
            assert search.find(rng.randbytes(shift) + whole) == 0
        assert search.find(whole[: 50 + length - 1]) is None


@pytest.mark.parametrize("seed", range(30))
def test_the_overlap_is_the_share_of_bytes_under_common_runs(seed: int):
    rng = random.Random(seed)
    items = [bytes(rng.choices(b"abcdefghij0123456789", k=rng.randrange(0, 500))) for _ in range(6)]
    text = b"".join(
        items[rng.randrange(6)][rng.randrange(50) : rng.randrange(60, 500)]
        + rng.randbytes(rng.randrange(30))
        for _ in range(3)
    )
    runs = {text[k : k + RUN] for k in range(0, len(text) - RUN + 1, 8)}
    shares = []
    for item in items:
        covered = set()
        for k in range(len(item) - RUN + 1):
            if item[k : k + RUN] in runs:
                covered |= set(range(k, k + RUN))
        shares.append(len(covered) / max(len(item), 1) if len(item) >= 80 else 0.0)
    found = OverlapSearch(items, [(0, n) for n in range(6)], 0.3, 80).find(text)
    if max(shares) >= 0.3:
        assert found == (shares.index(max(shares)), pytest.approx(max(shares)))
    else:
        assert found is None


def test_what_problems_of_one_file_share_is_their_wording():
    rng = random.Random(1)

    def words(count: int) -> bytes:
        return bytes(rng.choices(b"abcdefghijklmnop", k=count))

    wording = words(200)
    texts = [words(150) + wording for _ in range(3)]
    same_file = OverlapSearch(texts, [(0, 0), (0, 1), (0, 2)], 0.5, 80)
    assert same_file.find(b"xyz" + wording) is None
    assert same_file.find(texts[1])[0] == 1  # type: ignore[index]
    for problems in (
        [(0, 0), (1, 1), (2, 2)],
        [(0, 0), (0, 0), (0, 0)],
    ):  # other files, one problem
        assert OverlapSearch(texts, problems, 0.5, 80).find(b"xyz" + wording) is not None


def test_what_repeats_itself_is_no_item():
    items = [b"a" * 300, b"number" * 60, bytes(random.Random(2).choices(b"abcdefgh", k=100)) * 2]
    search = OverlapSearch(items, [(0, 0), (0, 1), (0, 2)], 0.5, 80)
    assert all(search.find(b"xyz" + item) is None for item in items)
    item = bytes(random.Random(3).choices(b"abcdefgh", k=200)) + b"a" * 300
    found = OverlapSearch([item], [(0, 0)], 0.5, 80).find(b"a" * 1_000)
    assert found is None, "what repeats itself is no part of an item"
    assert OverlapSearch([item], [(0, 0)], 0.5, 80).find(item[:200]) is not None


# --- benchmarks at hand ---

BENCHMARKS = (
    "humaneval", "humaneval_infilling", "humaneval_pack", "multipl_e_humaneval", "mbpp", "mbxp",
    "gsm8k", "math500", "aime24", "aime25", "cruxeval", "ifeval", "bfcl",
)  # fmt: skip
REPORTED = {"humaneval", "mbpp", "gsm8k"}


@pytest.fixture(scope="module")
def built(data_folder: Path) -> Contamination:
    return Contamination.build(data_folder)


def some(items: tuple[Item, ...] | list[Item], count: int) -> list[Item]:
    return random.Random(5).sample(list(items), min(count, len(items)))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_planted_items_are_found_whatever_their_layout(data_folder: Path, name: str):
    exact = Contamination.build(data_folder, [name], share=None)
    least = 12 if name in REPORTED else 60
    long = [item for item in exact.items if len(without_whitespace(item.text)) >= least]
    assert len(long) > 0.6 * len(exact.items)
    texts: dict[bytes, set[str]] = {}
    for item in long:
        texts.setdefault(without_whitespace(item.text), set()).add(item.name)
    for item in some(long, 400):
        reason = exact.find(other_layout(item.text))
        assert reason is not None
        held = without_whitespace(item.text)
        first = next(one for one in exact.exact_items if one.name == reason)
        assert without_whitespace(first.text) in held or reason in texts[held]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_one_character_changed_is_left_to_the_overlap(data_folder: Path, name: str):
    exact = Contamination.build(data_folder, [name], share=None)
    both = Contamination.build(data_folder, [name])
    assert both.overlap is not None
    caught = missed = tried = 0
    for item in some(exact.items, 300):
        text = item.text
        half = next(k for k in range(len(text) // 2, -1, -1) if k == 0 or text[k].isalpha())
        changed = ABOVE + text[:half] + "Ω" + text[half + 1 :] + BELOW
        if len(letters_and_digits(text)) < 110 or exact.find(changed):
            continue  # too short for a share, or another item stands inside it whole
        tried += 1
        reason = both.find(changed)
        caught += reason is not None and "% of it)" in reason
        missed += reason is None
    assert tried == caught + missed
    if name not in ("bfcl", "aime25", "mbpp"):  # whose items are short
        assert tried >= 10
    assert caught >= 0.97 * tried


def test_reasons_name_benchmark_item_and_part(data_folder: Path, built: Contamination):
    rows = {row["task_id"]: row for row in lines(data_folder / "humaneval" / "HumanEval.jsonl.gz")}
    prompt = rows["HumanEval/3"]["prompt"]
    assert built.find(prompt) == "humaneval HumanEval/3: docstring"
    solution = rows["HumanEval/10"]["canonical_solution"]
    assert built.find(solution) == "humaneval HumanEval/10: solution"
    mbpp = next(
        row for row in lines(data_folder / "mbpp" / "mbpp.jsonl.gz") if row["task_id"] == 11
    )
    assert built.find("# " + mbpp["text"]) == "mbpp/mbpp 11: docstring"
    assert built.find(mbpp["code"]) == "mbpp/mbpp 11: solution"
    question = lines(data_folder / "gsm8k" / "test.jsonl.gz")[7]["question"]
    assert built.find(question) == "gsm8k 7: question"
    lua = data_folder / "multipl_e_humaneval" / "humaneval-lua.jsonl.gz"
    prompt = lines(lua)[40]["prompt"].replace("--", "//")
    found = built.find(prompt)
    assert found is not None
    assert re.fullmatch(
        r"(multipl_e_humaneval|humaneval).* HumanEval\S+: \w+ \(\d+% of it\)", found
    )


def lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_the_report_s_limits_are_kept(data_folder: Path):
    """MBPP's test split alone, four solutions too general, GSM8K's test split alone."""
    report = Contamination.build(data_folder, ["humaneval", "mbpp", "gsm8k"], share=None)
    for solution in GENERIC_SOLUTIONS:
        assert report.find(f"def f(strings, x, y, n, string):\n    {solution}\n") is None
    assert report.find("def f(l):\n    return [(e + 1) for e in l]\n") is not None
    outside = [
        row
        for row in lines(data_folder / "mbpp" / "mbpp.jsonl.gz")
        if row["task_id"] not in range(11, 511)
    ]
    assert len(outside) == 474
    found = [row["task_id"] for row in outside if report.find(row["code"])]
    assert len(found) < 20  # a few repeat a problem of the test split
    train = [row["question"] for row in lines(data_folder / "gsm8k" / "train.jsonl.gz")]
    assert not any(map(report.find, train))
    assert sum(item.benchmark == "mbpp/mbpp" for item in report.items) == 1000
    assert sum(item.benchmark == "humaneval" for item in report.items) == 2 * 164 - 4


NEAR_MISSES = (
    # the subject of HumanEval/3, in other words
    "def below_zero(operations):\n    '''Tell whether the balance of an account, which starts at "
    "nothing, ever becomes negative while a list of deposits and withdrawals is applied.'''\n",
    "# Write a function to find the least cost of shipping a parcel from a given table of rates.\n",
    "Natalia sold 12 clips; how many did Weng sell if she sold half as many?",
    "def check(candidate):\n    assert candidate([]) == False\n\nMETADATA = {'author': 'jt'}\n",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    ABOVE + BELOW,
    "",
)


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_misses_stay(built: Contamination, text: str):
    assert built.find(text) is None


def ordinary_code() -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")])[:700]:
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="replace")


def test_ordinary_code_stays_and_is_searched_fast(built: Contamination):
    texts = list(ordinary_code())
    begin = time.process_time()
    found = [reason for text in texts if (reason := built.find(text))]
    speed = sum(map(len, texts)) / (time.process_time() - begin) / 1e6
    assert len(texts) > 300
    assert len(found) <= 2  # one of them computes a greatest common divisor as HumanEval/13 does
    assert not [reason for reason in found if "% of it" in reason]
    assert speed > 15  # MB/s; 50 on a quiet core


def test_hostile_repetition_stays_linear(built: Contamination):
    item = max((one for one in built.items if one.reported), key=lambda one: len(one.text))
    piece = without_whitespace(item.text)[:200].decode()
    seconds = []
    for count in (1_000, 4_000):
        text = (piece[:-1] + "#") * count
        begin = time.process_time()
        assert built.find(text) is None or "%" in str(built.find(text))
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 16 * max(seconds[0], 0.01)


# --- folders ---


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_benchmarks_that_are_not_at_hand_have_their_layout(tmp_path: Path):
    question = "Polycarp has n coins of different sizes and wants to stack them into towers."
    write(tmp_path / "apps" / "test.jsonl", [{"id": 3000, "question": question}])
    prompt = "Problem:\nI have a data frame with two columns and want the mean of each.\n<code>\n"
    row = {"prompt": prompt + "BEGIN SOLUTION\n<code>", "metadata": {"problem_id": 17}}
    write(tmp_path / "ds1000" / "ds1000.jsonl", [row])
    write(tmp_path / "own" / "items.jsonl", [{"id": "a", "problem": "What is " + "so " * 30}])
    found = Contamination.build(tmp_path)
    assert found.benchmarks == ("apps", "ds1000/ds1000")
    assert found.find(other_layout(question)) == "apps 3000: docstring"
    assert found.find(other_layout(prompt)) == "ds1000/ds1000 17: prompt"
    own = Contamination.build(tmp_path, ["own"])
    assert own.find("WHAT IS" + "so" * 30) == "own a: problem"
    assert own.find(question) is None


def test_the_digest_tells_files_and_settings_apart(tmp_path: Path):
    write(tmp_path / "apps" / "test.jsonl", [{"id": 1, "question": "How many towers are there?"}])
    one = Contamination.build(tmp_path)
    assert Contamination.build(tmp_path).digest == one.digest == digest_of_benchmarks(tmp_path)
    assert Contamination.build(tmp_path, share=None).digest != one.digest
    write(tmp_path / "apps" / "test.jsonl", [{"id": 1, "question": "How many towers are here?"}])
    assert Contamination.build(tmp_path).digest != one.digest


def test_short_parts_are_exempt(tmp_path: Path):
    write(tmp_path / "apps" / "test.jsonl", [{"id": 1, "question": "Add them up"}])
    assert Contamination.build(tmp_path).find("add them up") is None
    assert Contamination.build(tmp_path, shortest=9).find("ADD them up") == "apps 1: docstring"


def test_mistakes_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="is no folder"):
        Contamination.build(tmp_path / "absent")
    with pytest.raises(UserError, match="holds no benchmark that is known"):
        Contamination.build(tmp_path)
    write(tmp_path / "apps" / "test.jsonl", [{"id": 1, "question": "How many towers?"}])
    with pytest.raises(UserError, match=r"tests='aps'.*did you mean 'apps'.*there are: apps"):
        Contamination.build(tmp_path, ["aps"])
    with pytest.raises(UserError, match=r"tests='\.\./x'"):
        Contamination.build(tmp_path, ["../x"])
    write(tmp_path / "apps" / "test.jsonl", [{"id": 1, "task": "?"}])
    with pytest.raises(UserError, match=r"test\.jsonl.*of another layout \(KeyError"):
        Contamination.build(tmp_path)
    (tmp_path / "apps" / "test.jsonl").write_text('{"id": 1, "quest')
    with pytest.raises(UserError, match="fetch it anew"):
        read_items(tmp_path, ["apps"])
