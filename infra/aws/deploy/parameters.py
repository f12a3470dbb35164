"""Which parameters the stacks have, and what they are given."""

import json
import re
from pathlib import Path

from deploy.cli import Failed

FOLDER = Path(__file__).resolve().parents[1]
STACKS = ("network", "data", "app", "observability")


def declared(path):
    """The parameters of a template.

    A reader of YAML is not part of Python, so this one knows just the form in which our templates write parameters; a
    test holds it against a real one.
    """
    body = re.search(r"^Parameters:\n(.*?)^\S", path.read_text(), re.S | re.M).group(1)
    found = {}
    for name, spec in re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", body, re.M):
        # A folded text goes on in deeper lines.
        spec = re.sub(r"\n {6,}", " ", spec).replace(">- ", "")
        found[name] = {key: scalar(value) for key, value in re.findall(r"^    (\w+): (.*)$", spec, re.M)}
    return found


def scalar(text):
    if text.startswith("["):
        return [scalar(item) for item in text[1:-1].split(", ")]
    return text[1:-1] if text[:1] == "'" else text


def profile(name):
    path = FOLDER / "profiles" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json")))
        raise Failed(f"there is no profile {name}, only {known}")
    return json.loads(path.read_text())


# In the place of a stack's name: a parameter of all stacks that have it.
ALL = "all"


def shared(given, declared):
    """Gives what is meant for all stacks to each that has such a parameter."""
    for name, value in given.pop(ALL, {}).items():
        having = [stack for stack in STACKS if name in declared[stack]]
        if not having:
            raise Failed(f"{ALL}.{name}: no stack has that parameter")
        for stack in having:
            given.setdefault(stack, {})[name] = value
    return given


def merged(layers, files, settings):
    """The layers, such as a profile, then files of the same form, then `stack.Parameter=value`; later ones win."""
    given = {}
    for layer in (*layers, *(json.loads(Path(file).read_text()) for file in files)):
        for stack, values in layer.items():
            given.setdefault(stack, {}).update(values)
    for setting in settings:
        match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", setting, re.S)
        if not match:
            raise Failed(f"--set {setting}: write it as stack.Parameter=value, such as app.RateLimit=500")
        stack, name, value = match.groups()
        given.setdefault(stack, {})[name] = value
    return given
