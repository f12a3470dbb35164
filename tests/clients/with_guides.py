"""Runs the samples of shared/docs/guides/OTHER_LANGUAGES.md against a real stack.

Usage: with_guides.py WS_URL SECRET
"""

import asyncio
import base64
import functools
import hmac
import io
import json
import os
import random
import re
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

URL, SECRET = sys.argv[1:]
GUIDE = (Path(__file__).parents[2] / "shared/docs/guides/OTHER_LANGUAGES.md").read_text()
HOST, STAGE = URL.replace("ws:", "http:").rsplit("/", 1)


def sample(heading):
    """The names that the first sample below a heading defines."""
    _, below = GUIDE.split(f"\n## {heading}\n")
    names = {}
    exec(re.search(r"```python\n(.*?)```", below, re.DOTALL)[1], names)
    return names


def check(what, expected, got):
    if got != expected:
        sys.exit(f"FAILED {what}\nexpected: {expected!r:.500}\ngot:      {got!r:.500}")
    print(f"ok {what}", flush=True)


async def eventually(what, expected, get):
    end = time.monotonic() + 120
    while (got := get()) != expected and time.monotonic() < end:
        await asyncio.sleep(0.05)
    check(what, expected, got)


def sign(user, seconds=3600):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"data": {"id": user}, "exp": int(time.time()) + seconds}
    said = b".".join(part(json.dumps(value).encode()) for value in ({"alg": "HS256"}, claims))
    return (said + b"." + part(hmac.digest(SECRET.encode(), said, "sha256"))).decode()


def somebody(name):
    return f"{name}-{os.getpid()}"


async def breaking(*clients):
    # Not for ever: on a busy machine nothing would get through between two breaks.
    for _ in range(40):
        await asyncio.sleep(random.uniform(0.1, 0.5))
        if socket := random.choice(clients).socket:
            socket.transport.abort()


async def check_client(Chat):
    alice, bob = somebody("alice"), somebody("bob")
    heard, echoes, failures = [], [], ["m20"]

    def client(user, on_message, seconds=3600):
        async def get_token():
            return sign(user, seconds)

        return Chat(URL, user, get_token, on_message)

    async def on_bob(item):
        if item["msg"] in failures:
            failures.remove(item["msg"])
            raise ValueError("not yet")
        heard.append(item["msg"])
        if item["msg"].startswith("m3"):
            await b.send(alice, item["msg"])

    async def on_alice(item):
        echoes.append(item["msg"])

    a, b = client(alice, on_alice, seconds=4), client(bob, on_bob)
    tasks = [asyncio.create_task(work) for work in (a.run(), b.run(), breaking(a, b))]
    sent = [f"m{number}" for number in range(100)]
    await asyncio.gather(*(a.send(bob, text) for text in sent))
    tasks.pop().cancel()
    await eventually("the client receives all, in order, once, while connections break", sent, lambda: heard)
    answers = [text for text in sent if text.startswith("m3")]
    await eventually("a handler may send", answers, lambda: echoes)
    check("a handler has failed once", [], failures)
    refusal = await asyncio.gather(a.send(bob, "x" * 30_000), return_exceptions=True)
    check("what cannot be sent is refused", True, "error 8" in str(refusal[0]))
    for task in tasks:
        task.cancel()


async def check_socketio(names):
    alice, bob = somebody("carol"), somebody("dave")
    printed = io.StringIO()
    client = names["client"]
    client.connect = functools.partial(client.connect, wait_timeout=60)  # not 1 s
    with redirect_stdout(printed):
        task = asyncio.create_task(names["main"](HOST, STAGE, alice, sign(alice), alice))
        end = time.monotonic() + 120
        while not printed.getvalue() and not task.done() and time.monotonic() < end:
            await asyncio.sleep(0.05)
    check("python-socketio sends and receives", f"{alice}: hello from {alice}\n", printed.getvalue())
    with redirect_stdout(printed):
        await asyncio.gather(names["send"](alice, bob, "x" * 30_000), return_exceptions=True)
    check("it is told of a refusal", True, "not accepted" in printed.getvalue())
    await client.disconnect()
    await task


async def main():
    await check_client(sample("Python")["Chat"])
    await check_socketio(sample("python-socketio"))


asyncio.run(main())
