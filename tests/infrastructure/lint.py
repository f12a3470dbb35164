"""Everything that linters find in the stacks, in their sources and in what SAM makes of them."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, STACKS, source, translate

TOOLS = ROOT / "target/tools"

# What a linter says and we know better: tool, rule, text, reason. One that is said no more is told, too.
KNOWN_BETTER = [
    (
        "cloudformation-validate",
        "W2509",
        "SecretArn' appears to be a password",
        "It takes the ARN of a secret for a secret.",
    ),
    (
        "cloudformation-validate",
        "W1001",
        "conditional on '(ThreeZones|MakesBroker|MakesCache|MakesJwtKey|MakesTopic)'",
        "The outputs ask the condition by !If.",
    ),
    (
        "cloudformation-validate",
        "W2001",
        "'Shift' is not referenced",
        "SAM puts its value into the translated template.",
    ),
    (
        "cloudformation-validate",
        "W1030",
        "'PermissionsBoundary'} default '' has length 0",
        "Without one the property is left out.",
    ),
    (
        "cloudformation-validate",
        "W1030",
        "'AlarmTopicArn'} default '' has length 0",
        "Without one the topic is made, and its ARN taken.",
    ),
    ("cfn-lint", "W2001", "app.json:.*Shift not used", "SAM puts its value into the translated template."),
    (
        "cloudformation-validate",
        "W3011",
        "app.json: Both",
        "SAM keeps old versions of functions by DeletionPolicy alone.",
    ),
]


def cfn_lint(path):
    from cfnlint import lint
    from cfnlint.config import ManualArgs

    found = lint(Path(path).read_text(), config=ManualArgs(regions=["us-east-1", "eu-central-1"]))
    return [("cfn-lint", match.rule.id, f"{Path(path).name}:{match.linenumber}: {match.message}") for match in found]


def cloudformation_validate(path):
    from cloudformation_validate import CelEngine, RegoEngine

    found = []
    for engine in (RegoEngine(), CelEngine()):
        for said in engine.validate_template(str(path)).diagnostics:
            # INFO lists what an update would replace, and tags, which stacks give to all that is in them.
            if said.severity.name != "INFO":
                found.append(("cloudformation-validate", said.rule_id, f"{Path(path).name}: {said.message}"))
    return found


def sam_validate(path):
    command = [str(Path(sys.executable).parent / "sam"), "validate", "--lint", "--template", str(path)]
    variables = os.environ | {"SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    return [] if done.returncode == 0 else [("sam validate", "invalid", done.stdout + done.stderr)]


def checkov(folder):
    """What checkov finds, and suppressions that suppress nothing any more."""
    command = [str(TOOLS / "checkov/bin/checkov"), "-d", str(folder), "--framework", "cloudformation", "-o", "json"]
    # It would ask its makers' service for links to explanations.
    variables = os.environ | {"BC_SKIP_MAPPING": "TRUE", "CHECKOV_RUN_SCA_PACKAGE_SCAN_V2": "false"}
    done = subprocess.run([*command, "--skip-download"], capture_output=True, text=True, check=False, env=variables)
    if not done.stdout.strip():
        return [("checkov", "failed", done.stderr[-2000:])]
    answer = json.loads(done.stdout)
    results = answer[0]["results"] if isinstance(answer, list) else answer["results"]
    found = [
        ("checkov", check["check_id"], f"{check['file_path']} {check['resource']}: {check['check_name']}")
        for check in results["failed_checks"]
    ]
    used = {(c["file_path"].strip("/"), c["resource"].split(".")[-1], c["check_id"]) for c in results["skipped_checks"]}
    for stack in STACKS:
        if not (folder / f"{stack}.yaml").is_file():
            continue
        for name, resource in source(folder, stack)["Resources"].items():
            for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
                if (f"{stack}.yaml", name, skip["id"]) not in used:
                    found.append(("checkov", skip["id"], f"{stack}.yaml {name}: the suppression suppresses nothing"))
    return found


def translated(folder, into):
    """Writes what SAM makes of the stacks; plain ones as they are."""
    for stack in STACKS:
        path = into / f"{stack}.json"
        path.write_text(json.dumps(translate(source(folder, stack)), indent=1))
        yield path


def everything(folder):
    folder = Path(folder)
    found = []
    for stack in STACKS:
        found += cfn_lint(folder / f"{stack}.yaml")
    found += cfn_lint(folder / "ci/role.yaml")
    found += sam_validate(folder / "app.yaml")
    with tempfile.TemporaryDirectory() as into:
        for path in translated(folder, Path(into)):
            found += cloudformation_validate(path)
            if path.stem == "app":
                found += cfn_lint(path)
    found += checkov(folder)
    return unknown(found)


def unknown(found):
    """What is left of it, with every exception that excepts nothing."""
    left, used = [], set()
    for tool, rule, text in found:
        known = [e for e in KNOWN_BETTER if (tool, rule) == e[:2] and re.search(e[2], text)]
        used.update(known)
        if not known:
            left.append((tool, rule, text))
    return left + [(e[0], e[1], f"the exception `{e[2]}` excepts nothing") for e in KNOWN_BETTER if e not in used]


if __name__ == "__main__":
    problems = everything(sys.argv[1] if len(sys.argv) > 1 else ROOT / "infra/aws")
    for tool, rule, text in problems:
        print(f"{tool} {rule}: {text}")
    print(f"{len(problems)} problems")
    sys.exit(1 if problems else 0)
