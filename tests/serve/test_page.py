"""The page in headless Chromium: chat, fill-in-the-middle, origins, keys; by keyboard alone."""

import importlib.util
import inspect
import json
import os
import re
import textwrap
from pathlib import Path

import pytest

from cairn.engine import Engine
from cairn.serve import Keys, create_app

_spec = importlib.util.spec_from_file_location(
    "browser", Path(__file__).parent / "fixtures" / "browser.py"
)
assert _spec is not None
assert _spec.loader is not None
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)


def test_the_page_carries_a_policy_that_lets_nothing_else_in(server):
    response = server.client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "'sha256-" in policy
    html = response.text
    assert not re.search(r'\son\w+="', html), "handlers in attributes would not run"
    assert not re.search(r'\sstyle="', html)
    outside = set(re.findall(r"https?://[^\s'\"]+", html)) - {"http://www.w3.org/2000/svg"}
    assert not outside


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if browser.find() is None:
        pytest.skip("Chromium is not installed")
    found = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def settings(page, **values: object) -> None:
    for name, value in values.items():
        name = name.replace("_", "-")
        page.run(
            f"(() => {{ const e = document.getElementById('{name}'); e.value = {value!r};"
            "e.dispatchEvent(new Event('input')); })()"
        )


def test_a_conversation_by_keyboard(page, server):
    page.show(server.url, 1200, 800)
    page.wait("document.getElementById('state').textContent.startsWith('tiny')")
    settings(page, most=30, seed=1, thinking="on", budget=32)
    page.run("document.getElementById('say').focus()")
    page.write("hello there")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelectorAll('#log .assistant').length === 1")
    page.wait("!document.getElementById('send').hidden")
    assert page.run("document.querySelector('#log .user .text').textContent") == "hello there"
    foot = page.run("document.querySelector('#log .assistant .foot').textContent")
    assert re.search(r"\d+ tokens", foot), foot
    assert "tokens/s" in foot
    assert page.run("document.querySelector('#log details.thought .text').textContent.length") > 0
    # Tabs go by arrow keys; Escape stops an answer that would be long.
    page.run("document.getElementById('tab-chat').focus()")
    page.press("ArrowRight", 39)
    assert page.run("document.getElementById('fill').hidden") is False
    assert page.run("document.activeElement.id") == "tab-fill"
    settings(page, most=3000)
    page.run("document.getElementById('before').focus()")
    page.press("Enter", 13)
    page.run("document.getElementById('fill-form').requestSubmit()")
    page.wait("document.querySelector('#filled mark').textContent.length > 0")
    page.press("Escape", 27)
    page.wait("!document.getElementById('complete').hidden")
    server.wait_until_idle()
    assert page.run("document.getElementById('accept').disabled") is False
    text = page.run("document.querySelector('#filled mark').textContent")
    page.run("document.getElementById('accept').click()")
    assert page.run("document.getElementById('before').value").endswith(text)
    # A mistake is told in words.
    settings(page, most=10, path="a.py", before="x" * 50_000)
    page.run("document.getElementById('fill-form').requestSubmit()")
    page.wait("document.querySelector('#filled .bad') !== null")
    assert "tokens" in page.run("document.querySelector('#filled .bad').textContent")
    assert page.complaints() in ([], [page.complaints()[0]]), page.complaints()
    assert all("400" in complaint for complaint in page.complaints())
    assert {url.split("/")[2] for url in page.requested()} == {server.url.split("/")[2]}


@pytest.mark.parametrize(("width", "height"), [(360, 640), (768, 1024), (1600, 900)])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_at_any_width(page, server, width, height, dark):
    for tab in ("chat", "fill"):
        page.show(f"{server.url}/#{tab}", width, height, dark)
        page.call("Page.reload")
        page.wait("document.getElementById('state').textContent.startsWith('tiny')")
        wide = "document.documentElement.scrollWidth"
        assert page.run(wide) <= width
        assert page.run("getComputedStyle(document.body).backgroundColor") == (
            "rgb(23, 21, 19)" if dark else "rgb(250, 248, 245)"
        )
        pictures = os.environ.get("CAIRN_TEST_PICTURES")
        if pictures:
            page.picture(Path(pictures) / f"{tab}-{width}-{'dark' if dark else 'light'}.png")


def test_the_text_after_the_gap_begins_on_a_line_of_its_own(page, server):
    page.show(f"{server.url}/?lines#fill", 1200, 800)  # HTML drops a newline that begins a field
    page.wait("document.getElementById('state').textContent.startsWith('tiny')")
    assert page.run("document.getElementById('after').value") == "\n    return lines\n"


def test_everything_that_asks_has_a_name(page, server):
    page.show(server.url, 1200, 800)
    nameless = page.run(
        "[...document.querySelectorAll('input,select,textarea,button')].filter(e => "
        "!(e.labels && e.labels.length) && !e.ariaLabel && !e.textContent.trim()).map(e => e.id)"
    )
    assert nameless == []


def test_an_answer_is_traced_to_its_files(page, model, words, index, running_server):
    engine = Engine(model, words, slots=1, capacity=512)
    passage = inspect.getsource(textwrap)[500:560]
    with running_server(create_app(engine, "tiny", attribution=index), engine) as server:
        page.show(f"{server.url}/#fill", 1200, 900)
        page.wait("document.getElementById('state').textContent.startsWith('tiny')")
        assert page.run("FACTS.traces") is True
        # What the model draws is noise; the button is given a text that it might have drawn.
        page.run(f"traceButton(document.getElementById('filled'), {json.dumps(passage)})")
        page.run("document.querySelector('button.link').click()")
        page.wait("document.querySelector('.origin') !== null")
        told = page.run("document.querySelector('.origin').textContent")
        for part in ("python/cpython", "Lib/textwrap.py", "PSF-2.0", "swh:1:cnt:"):
            assert part in told


def test_a_locked_server_asks_for_its_key(page, model, words, running_server):
    engine = Engine(model, words, slots=1, capacity=64)
    app = create_app(engine, "tiny", keys=Keys(["sixteen-characters-1"]))
    with running_server(app, engine) as server:
        page.show(server.url, 1200, 800)
        page.wait("document.getElementById('state').textContent.includes('Authorization')")
        assert page.run("document.getElementById('key-label').hidden") is False
        page.run("document.getElementById('key').focus()")
        page.write("sixteen-characters-1")
        page.press("Tab", 9)
        page.wait("document.getElementById('state').textContent.startsWith('tiny')")
