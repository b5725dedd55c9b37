"""Who may look at the preview from another machine: whoever has its token. Knows no socket (``gate`` has them).

viser serves whoever connects. So where the preview is open to a network, each HTTP request is judged here before viser
sees it, a page's as a websocket's. The token comes once in the address (``/?token=...``); the answer exchanges it for
a cookie and takes it out of the address bar. What is handed on is written anew from the few headers that viser
needs, so that both ends read the same request, and a connection carries one request only.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

LARGEST_HEAD = 16_384  # bytes of a request up to its empty line
_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,4095}) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([ -~\x80-\xff]*?)[ \t]*")
_HANDED_ON = {b"accept", b"accept-encoding", b"accept-language", b"host", b"user-agent"}
_OF_WEBSOCKETS = {
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-protocol",
    b"sec-websocket-extensions",
}
_TEXT = {
    400: ("Bad Request", "This is no request that a browser makes."),
    401: ("Unauthorized", "This preview asks for its token: open the address that the server printed when it started."),
    403: ("Forbidden", "Another site's page may not open this preview."),
    405: ("Method Not Allowed", "There is nothing here to change."),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request: ``request`` for viser, or else ``response`` for the peer.

    stream: a websocket, whose bytes go on in both directions. refused: the HTTP status when it was turned away, else 0.
    """

    request: bytes = b""
    response: bytes = b""
    stream: bool = False
    refused: int = 0


def new_token() -> str:
    """A token that nobody guesses, fit for an address."""
    return secrets.token_urlsafe(24)


class Access:
    """Judges requests by one token. Comparing takes as long for a nearly right one as for a wrong one."""

    def __init__(self, token: str, port: int):
        """port: where the preview is seen; browsers share cookies between the ports of a host, so it is in the name."""
        self._token = token.encode()
        self._cookie = f"headstream_{port}"
        self._pass = hmac.new(self._token, b"headstream preview", hashlib.sha256).hexdigest()

    def judge(self, head: bytes) -> Verdict:
        """head: a request from its first byte to its empty line, both included."""
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        asked = _REQUEST.fullmatch(first)
        pairs = [_HEADER.fullmatch(line) for line in lines]
        if asked is None or not all(pairs):
            return _refuse(400)
        headers = [(found[1].lower(), found[2]) for found in pairs if found]
        one = dict(headers)
        if len(one) != len([name for name, _ in headers if name != b"cookie"]) + (b"cookie" in one):
            return _refuse(400)  # two of a kind, and each reader might take another
        if asked[1] not in (b"GET", b"HEAD"):
            return _refuse(405)
        if b"transfer-encoding" in one or one.get(b"content-length", b"0") != b"0" or b"host" not in one:
            return _refuse(400)
        path, _, text = asked[2].decode("ascii").partition("?")
        try:
            query = parse_qsl(text, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            return _refuse(400)
        given = [value for name, value in query if name == "token"]
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        path = "/" + path.lstrip("/")  # "//elsewhere" would be another host's address in a Location
        target = f"{path}?{rest}" if rest else path
        if not self._admits(given, [value for name, value in headers if name == b"cookie"]):
            return _refuse(401)
        if one.get(b"upgrade", b"").lower() == b"websocket":
            if not _same_site(one):
                return _refuse(403)
            return Verdict(_rewritten(asked[1], target, headers, websocket=True), stream=True)
        if given:
            return Verdict(response=self._welcome(target))
        return Verdict(_rewritten(asked[1], target, headers, websocket=False))

    def _admits(self, given: list[str], cookies: list[bytes]) -> bool:
        if given:  # a wrong token is refused whatever the cookie says, so that its sender learns of it
            return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "replace"), self._token)
        values = [part.strip() for cookie in cookies for part in cookie.split(b";")]
        mine = [value.partition(b"=")[2] for value in values if value.startswith(self._cookie.encode() + b"=")]
        return any([hmac.compare_digest(value, self._pass.encode()) for value in mine])

    def _welcome(self, target: str) -> bytes:
        cookie = f"{self._cookie}={self._pass}; Path=/; HttpOnly; SameSite=Lax"
        return _response(303, "See Other", "", [f"Location: {target}", f"Set-Cookie: {cookie}"])


def _same_site(headers: dict[bytes, bytes]) -> bool:
    """Whether a websocket is opened by a page of ours, or by no page. Cookies alone do not tell everywhere."""
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2].lower() == headers[b"host"].lower()


def _rewritten(method: bytes, target: str, headers: list[tuple[bytes, bytes]], *, websocket: bool) -> bytes:
    kept = _HANDED_ON | _OF_WEBSOCKETS if websocket else _HANDED_ON
    lines = [b"%s %s HTTP/1.1" % (method, target.encode("ascii"))]
    lines += [b"%s: %s" % (name, value) for name, value in headers if name in kept]
    lines += [b"connection: Upgrade", b"upgrade: websocket"] if websocket else [b"connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _refuse(status: int) -> Verdict:
    reason, text = _TEXT[status]
    return Verdict(response=_response(status, reason, text + "\n"), refused=status)


def _response(status: int, reason: str, text: str, more: list[str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: text/plain; charset=utf-8", "Connection: close"]
    lines += [f"Content-Length: {len(text.encode())}", "Cache-Control: no-store", "Referrer-Policy: no-referrer"]
    return "\r\n".join([*lines, *(more or []), "", text]).encode()
