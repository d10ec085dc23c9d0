"""Object stores: folders in every layout, and a web server that misbehaves in every way."""

import gzip
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cairn.base import UserError
from cairn.sources.objects import Missing, Patience, open_store
from cairn.sources.objects import store as store_module
from cairn.sources.objects.store import checked

QUICK = Patience(tries=4, first=0.01, most=1.0, timeout=0.3, whole=1.0, give_up=5)


def sha1(raw: bytes) -> str:
    return hashlib.sha1(raw).hexdigest()


@dataclass
class Bad:
    """A server of objects: `tricks` says by SHA-1 what each answer does; then they are good."""

    objects: dict[str, bytes] = field(default_factory=dict)
    tricks: dict[str, list[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    open: int = 0
    most_open: int = 0
    connections: int = 0
    url: str = ""

    def add(self, raw: bytes, *tricks: str) -> str:
        name = sha1(raw)
        self.objects[name] = raw
        self.tricks[name] = list(tricks)
        return name


def handler(bad: Bad) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            bad.connections += 1

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            bad.open += 1
            bad.most_open = max(bad.most_open, bad.open)
            try:
                self.answer(self.path.rsplit("/", 1)[1])
            except ConnectionError:  # whoever asked has gone
                self.close_connection = True
            finally:
                bad.open -= 1

        def answer(self, name: str) -> None:
            bad.asked[name] += 1
            bad.times.append(time.monotonic())
            if name not in bad.objects:
                return self.say(404, b"no such key")
            raw = bad.objects[name]
            trick = bad.tricks[name].pop(0) if bad.tricks[name] else "good"
            if trick == "good":
                return self.say(200, gzip.compress(raw))
            if trick == "plain":
                return self.say(200, raw)
            if trick == "wrong":
                return self.say(200, gzip.compress(raw + b"!"))
            if trick == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
                return None
            if trick == "reset":
                self.close_connection = True
                return None
            if trick == "stall":
                time.sleep(0.6)
                self.close_connection = True
                return None
            if trick == "drip":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(12):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.1)
                self.close_connection = True
                return None
            if trick == "slow":
                time.sleep(0.15)
                return self.say(200, raw)
            if trick == "closing":
                self.say(200, raw)
                self.close_connection = True  # without having said so
                return None
            if trick == "moved":
                return self.say(302, b"", Location=f"/elsewhere/{name}")
            if trick.startswith("wait "):
                return self.say(503, b"", **{"Retry-After": trick[5:]})
            return self.say(int(trick), b"trouble")

        def say(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture
def bad() -> Iterator[Bad]:
    made = Bad()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/content"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    "layout", ["{0}", "{1}/{0}", "{1}/{2}/{0}", "{1}/{2}/{3}", "{1}/{4}", "{1}/{2}/{5}/{0}"]
)
def test_a_folder_in_any_layout(tmp_path: Path, layout: str, ending: str) -> None:
    contents = [b"", b"print(1)\n", gzip.compress(b"a gzip file", mtime=0), b"\x1f\x8b is no gzip"]
    for raw in contents:
        name = sha1(raw)
        parts = (name, name[:2], name[2:4], name[4:], name[2:], name[4:6])
        path = tmp_path / (layout.format(*parts) + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(raw) if ending else raw)
    for location in (str(tmp_path), tmp_path.as_uri()):
        store = open_store(location)
        assert [store.fetch(sha1(raw)) for raw in contents] == contents
        assert store.fetch(sha1(b"other")) == Missing("is not in the store")


def test_a_folder_with_damage(tmp_path: Path) -> None:
    wanted, bomb, two = b"wanted", b"\0" * 5_000_000, b"members"
    (tmp_path / sha1(wanted)).write_bytes(b"wantef")
    (tmp_path / sha1(bomb)).write_bytes(gzip.compress(bomb))
    (tmp_path / sha1(two)).write_bytes(gzip.compress(two[:3]) + gzip.compress(two[3:]))
    store = open_store(str(tmp_path), most_bytes=1_000_000)
    assert store.fetch(sha1(wanted)) == Missing("its bytes are not those of its SHA-1")
    (tmp_path / f"{sha1(wanted)}.gz").write_bytes(gzip.compress(wanted))
    assert store.fetch(sha1(wanted)) == wanted, "a good file beside a bad one"
    assert isinstance(store.fetch(sha1(bomb)), Missing)
    assert store.fetch(sha1(two)) == two
    assert store.fetch("../../etc/passwd") == Missing("'../../etc/passwd' is no SHA-1")
    whole = gzip.compress(bomb)
    assert checked(whole, sha1(bomb)) == bomb
    assert checked(whole[:-9], sha1(bomb)) is None


def test_every_kind_of_failure_is_outlived(bad: Bad) -> None:
    tricks = ["plain", "wrong", "cut", "reset", "stall", "drip", "500", "503", "429", "moved"]
    names = [bad.add(f"content {trick}".encode(), trick) for trick in tricks]
    with open_store(bad.url, patience=QUICK) as store:
        for trick, name in zip(tricks, names, strict=True):
            assert store.fetch(name) == f"content {trick}".encode(), trick
            assert bad.asked[name] == (1 if trick == "plain" else 2), trick


def test_what_is_missing_is_told_at_once(bad: Bad) -> None:
    with open_store(bad.url, patience=QUICK) as store:
        absent = sha1(b"absent")
        assert store.fetch(absent) == Missing("is not in the store (404)")
        refused = bad.add(b"refused", "403")
        assert store.fetch(refused) == Missing("is not given by the store (403)")
        assert (bad.asked[absent], bad.asked[refused]) == (1, 1)
        around = bad.add(b"around", *["moved"] * 9)
        assert "redirected" in str(store.fetch(around))


def test_tries_have_an_end(bad: Bad) -> None:
    wrong, busy = bad.add(b"wrong", *["wrong"] * 9), bad.add(b"busy", *["503"] * 9)
    with open_store(bad.url, patience=QUICK) as store:
        found = store.fetch(wrong)
        assert isinstance(found, Missing)
        assert found.passing
        assert found.reason == "its bytes are not those of its SHA-1 (4 tries)"
        assert store.fetch(busy) == Missing("the server answers 503 (4 tries)", passing=True)
        assert (bad.asked[wrong], bad.asked[busy]) == (4, 4)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_server_says_when_to_come_again(bad: Bad, form: str) -> None:
    after = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    name = bad.add(b"later", f"wait {after}")
    with open_store(bad.url, patience=QUICK) as store:
        assert store.fetch(name) == b"later"
    assert 0.8 < bad.times[1] - bad.times[0] < 2.5


def test_waits_double_and_differ(bad: Bad) -> None:
    name = bad.add(b"wait", *["500"] * 3)
    with open_store(bad.url, patience=Patience(tries=4, first=0.1)) as store:
        assert store.fetch(name) == b"wait"
    gaps = [after - before for before, after in zip(bad.times, bad.times[1:], strict=False)]
    for number, gap in enumerate(gaps):
        assert 0.05 * 2**number < gap < 0.1 * 2**number + 0.2


def test_many_come_in_order_and_at_once(bad: Bad) -> None:
    names = [bad.add(b"%d" % number, "slow") for number in range(24)]
    names.insert(5, sha1(b"absent"))
    with open_store(bad.url, patience=QUICK) as store:
        began = time.monotonic()
        found = dict(store.fetch_many(iter(names), workers=8))
        took = time.monotonic() - began
        again = [bad.add(b"again %d" % number, "slow") for number in range(8)]
        assert all(isinstance(raw, bytes) for _, raw in store.fetch_many(again, workers=8))
    assert list(found) == names
    assert [raw for raw in found.values() if isinstance(raw, bytes)] == [
        b"%d" % number for number in range(24)
    ]
    assert took < 24 * 0.15 / 2, "they are asked for beside each other"
    assert 2 <= bad.most_open <= 8
    assert bad.connections <= 8, "connections are kept open"


def test_no_more_is_held_than_allowed(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [bad.add(b"%04d" % number * 250, "plain") for number in range(60)]
    monkeypatch.setattr(store_module, "HELD_BYTES", 3_000)
    with open_store(bad.url, patience=QUICK) as store:
        many = store.fetch_many(names, workers=2)
        next(many)
        time.sleep(0.3)
        next(many)
        time.sleep(0.3)
        assert sum(bad.asked.values()) <= 2 + 8, "at most 4 for each worker"
        began = time.monotonic()
        many.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 0.5
        before = sum(bad.asked.values())
        time.sleep(0.1)
        assert sum(bad.asked.values()) == before, "none are asked for after the end"


def test_a_connection_that_the_server_closed_is_no_failure(bad: Bad) -> None:
    names = [bad.add(b"closed %d" % number, "closing") for number in range(5)]
    with open_store(bad.url, patience=Patience(tries=1)) as store:
        for number, name in enumerate(names):
            assert store.fetch(name) == b"closed %d" % number
            time.sleep(0.02)


def test_a_cache_makes_it_go_on(bad: Bad, tmp_path: Path) -> None:
    names = [bad.add(b"kept %d" % number) for number in range(6)]
    cache = tmp_path / "cache"
    with open_store(bad.url, cache, patience=QUICK) as store:
        many = store.fetch_many(names[:3])
        assert [raw for _, raw in many] == [b"kept 0", b"kept 1", b"kept 2"]
    kept = cache / names[0][:2] / f"{names[0]}.gz"
    assert gzip.decompress(kept.read_bytes()) == b"kept 0"
    kept.write_bytes(gzip.compress(b"kept X"))
    with open_store(bad.url, cache, patience=QUICK) as store:
        assert [raw for _, raw in store.fetch_many(names)] == [b"kept %d" % n for n in range(6)]
        assert [bad.asked[name] for name in names] == [2, 1, 1, 1, 1, 1]
        assert store.fetch(sha1(b"absent")) == Missing("is not in the store (404)")
    assert gzip.decompress(kept.read_bytes()) == b"kept 0", "damage is mended"
    assert not list(cache.rglob(".part-*"))
    assert open_store(str(cache)).fetch(names[4]) == b"kept 4", "a cache is a store"


def test_a_cache_that_cannot_be_written(bad: Bad, tmp_path: Path) -> None:
    name = bad.add(b"no room")
    with open_store(bad.url, tmp_path, patience=QUICK) as store:
        (tmp_path / name[:2]).write_text("in the way")
        with pytest.raises(UserError, match="cannot be written"):
            store.fetch(name)


def test_a_server_that_is_away_is_no_loss_of_files(bad: Bad) -> None:
    names = [bad.add(b"away %d" % number, *["503"] * 9) for number in range(20)]
    with open_store(bad.url, patience=QUICK) as store:
        found: list[bytes | Missing] = []
        with pytest.raises(UserError, match="does not answer: the server answers 503"):
            found.extend(raw for _, raw in store.fetch_many(names, workers=2))
        assert all(isinstance(one, Missing) and one.passing for one in found)
        assert len(found) <= QUICK.give_up
    good = bad.add(b"good")
    with open_store(bad.url, patience=QUICK) as store:
        for name in names[:12]:
            bad.tricks[name] = ["503"] * 4
            assert isinstance(store.fetch(name), Missing)
            assert store.fetch(good) == b"good", "only failures in a row count"


def test_nobody_listens() -> None:
    quick = Patience(tries=2, first=0.01, timeout=0.2, give_up=3)
    with open_store("http://127.0.0.1:9/x", patience=quick) as store:
        found = store.fetch(sha1(b"x"))
        assert isinstance(found, Missing)
        assert found.passing
        assert "refused" in found.reason


def test_places(tmp_path: Path) -> None:
    for location, mend in {
        str(tmp_path / "none"): "is no folder",
        "ftp://host/x": "unknown scheme 'ftp'",
        "s3:///x": "names no bucket",
        "https:///x": "is no plain URL",
        "https://me:secret@host/x": "is no plain URL",
    }.items():
        with pytest.raises(UserError, match=mend):
            open_store(location)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        open_store(str(tmp_path), tmp_path / "file" / "cache")
    for location, base in {
        "s3://softwareheritage/content": "https://softwareheritage.s3.amazonaws.com/content",
        "s3://softwareheritage/content/": "https://softwareheritage.s3.amazonaws.com/content",
        "s3://with.dots": "https://s3.amazonaws.com/with.dots",
    }.items():
        assert getattr(open_store(location).place, "base", None) == base
