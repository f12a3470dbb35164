"""Python's `websockets` against the edge: handshake, compression, fragments, limits and closes.

Usage: with_websockets.py WS_URL
"""

import faulthandler
import functools
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

[WS_URL] = sys.argv[1:]
KB = 1024

faulthandler.dump_traceback_later(600, exit=True)

# A busy machine needs more than ten seconds at times.
opened = functools.partial(connect, open_timeout=120, close_timeout=60)


def check(what, expected, got):
    if got != expected:
        sys.exit(f"FAILED {what}\nexpected: {expected!r:.500}\ngot:      {got!r:.500}")
    print(f"ok {what}", flush=True)


def answer(ws, message):
    """What comes back for a text, bytes, or the fragments of a text."""
    try:
        ws.send(message)
        return ws.recv(timeout=60)
    except TimeoutError:
        return "nothing within 60 s"
    except ConnectionClosed as closed:
        return f"closed with {closed.rcvd.code}" if closed.rcvd else str(closed)


def answer_to_one(message):
    with opened(WS_URL, compression=None) as ws:
        return answer(ws, message)


def fragments(count):
    return [letter * 8 * KB for letter in "abcdefghijklmnopqrstuvwxyz"[:count]]


def check_handshake():
    with opened(WS_URL, subprotocols=["chat.v1", "other"]) as ws:
        check("a subprotocol is chosen", "chat.v1", ws.subprotocol)
    with opened(WS_URL) as ws:
        check("none is chosen when none is offered", None, ws.subprotocol)
    try:
        with opened(WS_URL + "?refuse=403"):
            status = "accepted"
    except InvalidStatus as refused:
        status = refused.response.status_code
    check("a refusal by $connect is the status of the handshake", 403, status)


def check_texts(compression, extensions):
    how = "compressed" if compression else "uncompressed"
    with opened(WS_URL, compression=compression) as ws:
        check(f"{how}: extensions are {extensions}", extensions, [extension.name for extension in ws.protocol.extensions])
        text = "x€👋" * (32 * KB // 8)
        check(f"{how}: 32 KB in one frame come back", text, answer(ws, text))
        five = fragments(5)
        check(f"{how}: 5 fragments of 8 KB come back as one message", "".join(five), answer(ws, five))


def check_limits():
    sixteen = fragments(16)
    check("16 fragments of 8 KB come back", "".join(sixteen), answer_to_one(sixteen))
    check("a fragment more closes with 1009", "closed with 1009", answer_to_one(fragments(17)))
    check("a frame of 40 KB closes with 1009", "closed with 1009", answer_to_one("x" * 40 * KB))
    check("a binary frame closes with 1003", "closed with 1003", answer_to_one(b"\x00\x01"))


def check_control_frames():
    with opened(WS_URL) as ws:
        check("a ping gets its pong", True, ws.ping("are you there?").wait(timeout=60))
        ws.close(4001, "bye")
        check("a close by the client is answered with its code", 4001, ws.close_code)


check_handshake()
check_texts("deflate", ["permessage-deflate"])
check_texts(None, [])
check_limits()
check_control_frames()
