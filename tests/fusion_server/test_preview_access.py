"""The preview's token: what is judged, and that neither page nor websocket opens without it."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import logging
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
import viser
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fusion_server.preview import Preview
from fusion_server.preview.access import Access, new_token
from protocol.calibration import Calibration, Camera
from protocol.errors import HeadstreamError
from protocol.rig import ServerConfig, parse_rig

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
TOKEN = "a-token-of-the-rig-file"
ACCESS = Access(TOKEN, 8080)
PROTOCOL = f"viser-v{viser.__version__}"


def request(target="/", *headers, method="GET", host="10.0.0.2:8080"):
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def cookie_of(response: bytes) -> str:
    (line,) = (line for line in response.decode().split("\r\n") if line.startswith("Set-Cookie: "))
    assert "HttpOnly" in line and "SameSite=Lax" in line
    return line.removeprefix("Set-Cookie: ").partition(";")[0]


COOKIE = cookie_of(ACCESS.judge(request(f"/?token={TOKEN}")).response)
WEBSOCKET = (
    "Upgrade: WebSocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Version: 13",
)


def test_a_token_becomes_a_cookie_and_leaves_the_address():
    answer = ACCESS.judge(request(f"/?token={TOKEN}&initDistanceScale=2"))
    assert answer.response.startswith(b"HTTP/1.1 303 ") and not answer.request and not answer.refused
    assert b"\r\nLocation: /?initDistanceScale=2\r\n" in answer.response
    assert TOKEN.encode() not in answer.response, "the cookie opens the preview, but does not tell the token"


def test_a_cookie_opens_the_page_and_only_what_viser_needs_is_handed_on():
    head = request("/assets/a.js?b=1", f"Cookie: other=1; {COOKIE}", "Accept-Encoding: gzip", "X-Strange: 1")
    answer = ACCESS.judge(head)
    lines = answer.request.split(b"\r\n")
    assert lines[0] == b"GET /assets/a.js?b=1 HTTP/1.1" and lines[-2:] == [b"", b""]
    assert set(lines[1:-2]) == {b"host: 10.0.0.2:8080", b"accept-encoding: gzip", b"connection: close"}
    assert not answer.stream and not answer.response


@pytest.mark.parametrize("how", [[f"Cookie: {COOKIE}"], [f"Cookie: {COOKIE}", "Origin: http://10.0.0.2:8080"]])
def test_a_cookie_opens_a_websocket(how):
    answer = ACCESS.judge(request("/", *WEBSOCKET, *how))
    assert answer.stream and b"upgrade: websocket" in answer.request and b"ookie" not in answer.request


def test_a_websocket_may_bring_the_token_itself():
    answer = ACCESS.judge(request(f"/?token={TOKEN}", *WEBSOCKET))
    assert answer.stream and TOKEN.encode() not in answer.request


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(), 401),
        (request("/?token="), 401),
        (request(f"/?token={TOKEN[:-1]}"), 401),
        (request(f"/?token={TOKEN}x"), 401),
        (request(f"/?token={TOKEN}&token=x"), 401),
        (request("/?token=x", f"Cookie: {COOKIE}"), 401),
        (request("/?token=%ff%00"), 401),
        (request("/", f"Cookie: headstream_8080={TOKEN}"), 401),
        (request("/", f"Cookie: {COOKIE.replace('8080', '8081')}"), 401),
        (request("/", f"Cookie: {COOKIE[:-1]}"), 401),
        (request("/", *WEBSOCKET), 401),
        (request("/", *WEBSOCKET, f"Cookie: {COOKIE}", "Origin: http://evil.example"), 403),
        (request("/", *WEBSOCKET, f"Cookie: {COOKIE}", "Origin: null"), 403),
        (request("/", f"Cookie: {COOKIE}", method="POST"), 405),
        (request("/", f"Cookie: {COOKIE}", "Content-Length: 5"), 400),
        (request("/", f"Cookie: {COOKIE}", "Transfer-Encoding: chunked"), 400),
        (request("/", f"Cookie: {COOKIE}", "Host: other"), 400),
        (request("/", f"Cookie: {COOKIE}", " folded"), 400),
        (request("/", f"Cookie: {COOKIE}", "Upgrade : websocket"), 400),
        (request("http://elsewhere/", f"Cookie: {COOKIE}"), 400),
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /\n HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
)
def test_what_is_refused(head, status):
    answer = ACCESS.judge(head)
    assert answer.refused == status and answer.response.startswith(b"HTTP/1.1 %d " % status)
    assert not answer.request and not answer.stream and TOKEN.encode() not in answer.response


def test_a_token_does_not_lead_to_another_site():
    answer = ACCESS.judge(request(f"//evil.example/?token={TOKEN}"))
    assert b"\r\nLocation: /evil.example/\r\n" in answer.response


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 20))
def test_nothing_else_opens_it(junk, at, cut):
    whole = request("/", "Cookie: headstream_8080=0", "Origin: http://10.0.0.2:8080")
    answer = ACCESS.judge(whole[:at] + junk + whole[at + cut :] + b"\r\n\r\n")
    assert answer.refused and not answer.request


def test_tokens_differ():
    assert len({new_token() for _ in range(100)}) == 100 and len(new_token()) >= 32


def test_a_weak_token_of_the_rig_file_is_refused_without_being_shown():
    camera = {"id": "cam", "node": "pc1", "driver": "replay"}
    data = {"name": "t", "calibration": "c", "camera": [camera], "server": {"preview_token": "hunter2"}}
    with pytest.raises(HeadstreamError, match=r"server\.preview_token: must be 16 to 128") as caught:
        parse_rig(data)
    assert "hunter2" not in str(caught.value)


def make_preview(host: str, token: str = "") -> Preview:
    camera = {"id": "front", "node": "pc1", "driver": "replay"}
    rig = parse_rig({"name": "test", "calibration": "cameras.json", "camera": [camera]})
    server = replace(ServerConfig(), preview_host=host, preview_port=0, preview_token=token)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    view = Camera("front", 640, 480, K, np.zeros(5), np.diag([1.0, -1, -1]), np.array([0, 0, 0.5]))
    return Preview(replace(rig, server=server), Calibration((view,)))


@pytest.fixture(scope="module")
def preview():
    made = make_preview("0.0.0.0", TOKEN)
    yield made
    made.close()


def get(port: int, target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_a_browser_gets_the_page_with_the_token_only(preview):
    before = preview.refused
    status, _, body = get(preview.port, "/")
    assert status == 401 and b"token" in body and b"<html" not in body
    assert get(preview.port, "/?token=wrong-wrong-wrong")[0] == 401
    assert preview.refused == before + 2
    status, headers, _ = get(preview.port, f"/?token={TOKEN}")
    assert status == 303 and headers["Location"] == "/"
    status, headers, body = get(preview.port, "/", Cookie=headers["Set-Cookie"].partition(";")[0])
    assert status == 200 and b"<html" in body and int(headers["Content-Length"]) == len(body)


def test_a_websocket_opens_with_the_token_only(preview):
    address = f"ws://127.0.0.1:{preview.port}/"
    for bad in ("", "?token=wrong-wrong-wrong"):
        with pytest.raises(InvalidStatus) as caught, connect(address + bad, subprotocols=[PROTOCOL]):
            pass
        assert caught.value.response.status_code == 401
    _, headers, _ = get(preview.port, f"/?token={TOKEN}")
    cookie = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
    with connect(address, subprotocols=[PROTOCOL], additional_headers=cookie, max_size=None) as websocket:
        assert len(websocket.recv(10)) > 0
    with connect(f"{address}?token={TOKEN}", subprotocols=[PROTOCOL], max_size=None) as websocket:
        assert len(websocket.recv(10)) > 0


def test_a_second_request_on_an_admitted_connection_is_not_answered(preview):
    """Whoever is let in once does not carry others along on the same connection."""
    _, headers, _ = get(preview.port, f"/?token={TOKEN}")
    one = request("/nothing", "Cookie: " + headers["Set-Cookie"].partition(";")[0])
    with socket.create_connection(("127.0.0.1", preview.port), 10) as peer:
        peer.sendall(one + request("/"))
        received = b""
        while piece := peer.recv(65_536):
            received += piece
    assert received.count(b"HTTP/1.1 ") == 1 and received.startswith(b"HTTP/1.1 404")


def test_garbage_and_silence_harm_nobody(preview):
    silent = [socket.create_connection(("127.0.0.1", preview.port), 10) for _ in range(20)]
    with socket.create_connection(("127.0.0.1", preview.port), 10) as peer:
        peer.sendall(bytes(range(256)) * 400)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(100) == b""
    assert get(preview.port, f"/?token={TOKEN}")[0] == 303
    for each in silent:
        each.close()


def test_the_address_is_logged_once_with_a_token_made_at_start(caplog):
    caplog.set_level(logging.INFO)
    preview = make_preview("0.0.0.0")
    try:
        (line,) = (record.message for record in caplog.records if "?token=" in record.message)
        assert preview.address in line and str(preview.port) in line
        token = preview.address.partition("?token=")[2]
        assert len(token) >= 32 and get(preview.port, f"/?token={token}")[0] == 303
        inner = preview._server.get_port()
        assert preview._server.get_host() == "127.0.0.1" and inner != preview.port
    finally:
        preview.close()
    deadline = time.monotonic() + 10
    with pytest.raises(OSError):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", preview.port), 1).close()


def test_on_loopback_nobody_is_asked():
    preview = make_preview("127.0.0.1")
    try:
        assert "token" not in preview.address and get(preview.port, "/")[0] == 200
    finally:
        preview.close()


def test_a_port_in_use_is_named():
    with (
        socket.create_server(("0.0.0.0", 0)) as taken,
        pytest.raises(HeadstreamError, match=r"cannot listen there .*; see server\.preview_host"),
    ):
        camera = {"id": "front", "node": "pc1", "driver": "replay"}
        rig = parse_rig({"name": "test", "calibration": "cameras.json", "camera": [camera]})
        port = taken.getsockname()[1]
        Preview(
            replace(rig, server=replace(ServerConfig(), preview_host="0.0.0.0", preview_port=port)), Calibration(())
        )


@pytest.mark.slow
def test_a_real_browser_is_let_in_by_the_address_and_keeps_its_cookie(preview, root):
    spec = importlib.util.spec_from_file_location("screenshot", root / "tests" / "fusion_server" / "screenshot.py")
    screenshot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshot)
    if screenshot.chromium() is None:
        pytest.skip("Chromium is not installed")
    preview.update_status({"meshes_per_second": 5.23})
    with screenshot.Browser() as browser:
        browser.open(f"http://127.0.0.1:{preview.port}/")
        browser.wait_for_text("asks for its token")
        browser.open(f"http://127.0.0.1:{preview.port}/?token={TOKEN}")
        browser.wait_for_text("5.2 meshes/s")
        browser.open("about:blank")
        browser.wait_for("document.body.innerText === ''")
        browser.open(f"http://127.0.0.1:{preview.port}/")
        browser.wait_for_text("5.2 meshes/s")
