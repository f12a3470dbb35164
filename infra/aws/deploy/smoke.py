"""Two clients chat through a deployment: the least that proves that all parts of it work together."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import ssl
import struct
import time
from urllib.parse import urlsplit

from deploy.cli import GREEN, PLAIN, Failed, say

# How long anything may take; a first call waits for a function to start.
PATIENCE = 60


def token(secret, user, algorithm="HS256", claim="data.id"):
    """A JWT for a user, good for five minutes."""
    hashes = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    if algorithm not in hashes:
        raise Failed(f"tokens of {algorithm} are signed with a key that is not here: give two with --tokens A,B")
    claims = {"exp": int(time.time()) + 300}
    *path, last = claim.split(".")
    inner = claims
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = user

    def encode(part):
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    text = encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()) + b"." + encode(json.dumps(claims).encode())
    return (text + b"." + encode(hmac.new(secret.encode(), text, hashes[algorithm]).digest())).decode()


class Client:
    """A WebSocket client that speaks text frames, which is all that the edge speaks."""

    def __init__(self, url, jwt):
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        self.socket = socket.create_connection((parts.hostname, port), timeout=PATIENCE)
        if secure:
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=parts.hostname)
        key = base64.b64encode(os.urandom(16)).decode()
        host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        request = [
            f"GET {parts.path or '/'}?token={jwt}&v=2 HTTP/1.1",
            f"Host: {host}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        self.socket.sendall(("\r\n".join(request) + "\r\n\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(head.split(b" ")[1])

    def _receive(self):
        try:
            more = self.socket.recv(65536)
        except TimeoutError as error:
            raise Failed(f"nothing came within {PATIENCE} seconds") from error
        if not more:
            raise Failed("the connection was closed")
        self.buffer += more

    def _take(self, count):
        while len(self.buffer) < count:
            self._receive()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def say(self, frame, opcode=1):
        body = json.dumps(frame).encode() if opcode == 1 else frame
        mask = os.urandom(4)
        size = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + struct.pack(">H", len(body))
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))
        self.socket.sendall(bytes([0x80 | opcode]) + size + mask + masked)

    def hear(self, event):
        """The next frame of that event."""
        while True:
            first, size = self._take(2)
            if size == 126:
                size = struct.unpack(">H", self._take(2))[0]
            body = self._take(size)
            if first & 15 == 9:
                self.say(body, opcode=10)
            elif first & 15 == 8:
                raise Failed(f"the edge has closed the connection: {body[2:].decode(errors='replace')}")
            elif first & 15 == 1:
                frame = json.loads(body)
                if frame.get("event") == event:
                    return frame
                if "message" in frame:
                    raise Failed(f"the edge says: {frame['message']}")

    def close(self):
        self.say(struct.pack(">H", 1000), opcode=8)
        self.socket.close()


def check(is_so, text):
    if not is_so:
        raise Failed(f"not so: {text}")
    say(f"{GREEN}ok{PLAIN} {text}")


def smoke(url, tokens, users):
    """Raises [`Failed`] with the first thing that is not as it should be."""
    check(Client(url, "forged").status in (401, 403), "a token that nobody signed is refused")
    alice, bob = (Client(url, jwt) for jwt in tokens)
    check((alice.status, bob.status) == (101, 101), "two clients connect")
    alice.say({"action": "ping"})
    check(alice.hear("RESPPONG")["ER"] == 0, "the edge answers a ping")
    text = f"smoke {secrets.token_hex(8)}"
    began = time.monotonic()
    alice.say({"action": "send", "uId": users[0], "pId": users[1], "msg": text, "rno": secrets.token_hex(8), "time": 1})
    reply = alice.hear("RESPSEND")
    check(reply["ER"] == 0, f"a message is accepted {reply.get('ERMSG', '')}".rstrip())
    item = bob.hear("RESPRECEIVER")["MSG"][-1]
    check(item["msg"] == text, f"it arrives, after {time.monotonic() - began:.2f} s")
    bob.say({"action": "ack", "mId": item["mId"]})
    alice.say({"action": "send", "uId": users[1], "pId": users[0], "msg": "x", "rno": secrets.token_hex(8), "time": 1})
    check(alice.hear("RESPSEND")["ER"] == 5, "nobody speaks for another")
    time.sleep(1)
    alice.close()
    bob.close()
