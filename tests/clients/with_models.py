"""Generates models from protocol.schema.json and reads the golden frames with them; compares the examples of asyncapi.yaml.

Usage: with_models.py
"""

import json
import sys
import tempfile
from importlib import util
from pathlib import Path

import yaml
from datamodel_code_generator import DataModelType, InputFileType, generate
from datamodel_code_generator.format import Formatter

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "shared/docs/protocol.schema.json").read_text())
GOLDEN = {path.stem: json.loads(path.read_text()) for path in (ROOT / "shared/protocol/tests/golden").glob("*.json")}


def check(what, expected, got):
    if got != expected:
        sys.exit(f"FAILED {what}\nexpected: {expected}\ngot:      {got}")
    print(f"ok {what}", flush=True)


def subschemas(schema, is_named=True):
    """All subschemas from which a generator makes a type of its own."""
    if is_named or {"enum", "properties"} & schema.keys():
        yield schema
    for keyword in ("oneOf", "anyOf"):
        for inner in schema.get(keyword, []):
            yield from subschemas(inner)
    for inner in schema.get("definitions", {}).values():
        yield from subschemas(inner)
    for inner in [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]:
        yield from subschemas(inner, is_named=False)


def models():
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, "frames.py")
        generate(
            json.dumps(SCHEMA),
            input_file_type=InputFileType.JsonSchema,
            output=module,
            output_model_type=DataModelType.PydanticV2BaseModel,
            use_title_as_name=True,
            formatters=[Formatter.BUILTIN],
        )
        spec = util.spec_from_file_location("frames", module)
        sys.modules["frames"] = frames = util.module_from_spec(spec)
        spec.loader.exec_module(frames)
        return frames


def kind(frame):
    return frame.get("event") or frame["action"]


def read(frames, frame):
    """The model of a frame, which a model of all frames has chosen."""
    model = frames.Frame.model_validate(frame)
    while hasattr(model, "root"):
        model = model.root
    return model


titles = [schema.get("title") for schema in subschemas(SCHEMA) if "$ref" not in schema]
check("types have titles", [], [title for title in titles if not title or titles.count(title) > 1])

frames = models()
for name, frame in sorted(GOLDEN.items()):
    written = json.loads(read(frames, frame).model_dump_json(exclude_unset=True))
    check(f"{name} is read and written", frame, written)
chosen = {kind(frame): type(read(frames, frame)).__name__.lower() for frame in GOLDEN.values()}
alternatives = {"send": ["sendtoroom", "sendtouser"], "ack": ["ackofmessage", "ackagain"], "RESPSTATUS": ["statusreply", "statusevent"]}
check("each by its own model", [], [name for name, model in chosen.items() if model not in alternatives.get(name, [name.lower()])])

limited = read(frames, GOLDEN["resp_send_limited"]).ER.root
check("a code has its name", "RateLimited", frames.ErrorCode(limited).name)
for code in (23, 100, 4711):
    unknown = read(frames, {**GOLDEN["resp_send_failed"], "ER": code})
    check(f"the unknown code {code} is read", ("RESPSEND", code), (unknown.event, unknown.ER.root))

document = yaml.safe_load((ROOT / "shared/docs/asyncapi.yaml").read_text())
examples = {}
for name, message in document["components"]["messages"].items():
    for example in message["examples"]:
        check(f"{example['name']} is an example of its kind", name, kind(example["payload"]))
        examples[example["name"]] = example["payload"]
check("the examples are the golden frames", GOLDEN, examples)
