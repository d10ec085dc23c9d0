"""Web pages do not reach a server without keys by another name, and metrics stay few."""

import socket

import httpx
import pytest

from cairn.engine import Engine
from cairn.serve import create_app
from cairn.serve import server as serving

SAID = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(model, words, running_server):
    engine = Engine(model, words, slots=2, capacity=256)
    with running_server(create_app(engine, "tiny", hosts=["box.example"]), engine) as found:
        yield found


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("127.0.0.1", 200),
        ("localhost:8000", 200),
        ("LocalHost.", 200),
        ("[::1]:8000", 200),
        ("192.168.7.7", 200),  # an address cannot be pointed elsewhere
        ("box.example:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("evil.example@127.0.0.1.nip.io", 421),
        ("[::1", 421),
        (":8000", 421),
    ],
)
def test_only_own_names_are_answered(guarded, host, status):
    for path in ("/v1/models", "/", "/health", "/nothing"):
        response = guarded.client.get(path, headers={"host": host})
        assert response.status_code == (404 if path == "/nothing" and status == 200 else status)
    response = guarded.client.post("/v1/chat/completions", json=SAID, headers={"host": host})
    assert response.status_code == status
    if status == 421:
        assert "--allow-host" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("{url}", 200),  # the server's own page
        ("http://localhost:3000", 200),
        ("http://[::1]:3000", 200),
        ("https://box.example", 200),
        ("chrome-extension://abcdef", 200),
        ("https://evil.example", 403),
        ("http://6.6.6.6", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("null", 403),  # a sandboxed frame of any page
    ],
)
def test_other_pages_may_not_ask(guarded, origin, status):
    headers = {"origin": origin.format(url=guarded.url)}
    response = guarded.client.post("/v1/chat/completions", json=SAID, headers=headers)
    assert response.status_code == status
    if status == 403:
        assert "--allow-host" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("where", "keys", "names", "expected"),
    [
        ("127.0.0.1", None, (), ()),
        ("127.0.0.1", None, ("box",), ("box",)),
        ("127.0.0.1", "some", (), None),  # pages do not know the key
        ("0.0.0.0", None, (), None),
        ("0.0.0.0", None, ("box",), ("box",)),
    ],
)
def test_a_server_on_loopback_without_keys_checks_names(
    made, tmp_path, where, keys, names, expected
):
    (tmp_path / "tokenizer.json").write_text("{}")
    serving.serve(tmp_path, where, 0, keys=keys, allow_hosts=names)
    assert made.app["hosts"] == expected


def test_made_up_methods_and_paths_make_no_series(guarded):
    host, port = guarded.url.removeprefix("http://").split(":")
    for number in range(3):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"ZZ{number} /z{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            client.recv(200)
        guarded.client.get(f"/v1/models/made-up-{number}")
        guarded.client.get(f"/made/up/{number}")
        guarded.client.delete(f"/v1/models/made-up-{number}")
    text = guarded.client.get("/metrics").text
    assert "ZZ" not in text
    assert "made" not in text
    assert 'cairn_requests_total{method="other",path="other",status="404"} 3' in text
    assert 'cairn_requests_total{method="GET",path="/v1/models/{name}",status="404"} 3' in text


def test_other_clients_work_on_loopback(guarded):
    assert httpx.get(f"{guarded.url}/v1/models".replace("127.0.0.1", "localhost")).is_success
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="none", max_retries=0)
    assert [card.id for card in client.models.list()] == ["tiny"]
