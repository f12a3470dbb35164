"""The AWS command line, and how this program talks to a person."""

import json
import os
import subprocess
import sys
import time

# How AWS says that there is no such stack, broker or replication group.
MISSING = ("does not exist", "NotFound", "Can't find requested broker")

# Seconds until a question that failed is put again: a network may be away for a moment, a rate exceeded.
WAITS = (1, 3, 10, 30)

BOLD, RED, GREEN, PLAIN = ("\033[1m", "\033[31m", "\033[32m", "\033[0m") if sys.stdout.isatty() else ("",) * 4


class Failed(Exception):
    """What went wrong, said so that the reader knows what to do."""


def step(text):
    print(f"{BOLD}== {text}{PLAIN}", flush=True)


def say(text):
    print(f"   {text}", flush=True)


def confirm(question, assumed):
    """Asks for a yes. `--yes` and nothing else answers for a person."""
    if assumed:
        return True
    if not sys.stdin.isatty():
        raise Failed(f"{question} There is nobody to ask: say --yes if it is what you want.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


class Aws:
    """Calls `aws` in one region."""

    def __init__(self, region):
        self.region = region

    @property
    def url_suffix(self):
        """The domain of the services. Source: https://docs.amazonaws.cn/en_us/aws/latest/userguide/endpoints-Beijing.html"""
        return "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"

    def __call__(self, *arguments, data=None, parse=True):
        """Runs a command and returns what it answers; raises [`Failed`] with what AWS says."""
        command = ["aws", *arguments, "--region", self.region, "--output", "json"]
        done = subprocess.run(
            command, input=data, capture_output=True, text=True, check=False, env=os.environ | {"AWS_PAGER": ""}
        )
        if done.returncode != 0:
            raise Failed(f"aws {' '.join(arguments[:2])}: {done.stderr.strip() or 'failed'}")
        if not parse:
            return done.stdout
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def try_(self, *arguments):
        """The same, with None where AWS says no."""
        try:
            return self(*arguments)
        except Failed:
            return None

    def find(self, *arguments):
        """The same, with None only where AWS says that there is no such thing; an answer that is missing is asked for
        again, as what is under way goes on meanwhile."""
        for wait in WAITS:
            try:
                return self(*arguments)
            except Failed as failed:
                if any(said in str(failed) for said in MISSING):
                    return None
                last = failed
                time.sleep(wait)
        raise last
