"""Secrets Manager as far as `kschat-aws` uses it: secrets with versions, each of which has stages."""

import json
from pathlib import Path

from templates import ROOT, wiring

wiring(ROOT / "infra/aws")

from deploy import cli


class Vault:
    def __init__(self, secrets):
        self.versions = {arn: {"0": value} for arn, value in secrets.items()}
        self.stages = {arn: {"AWSCURRENT": "0"} for arn in secrets}

    def current(self, arn):
        return self.versions[arn][self.stages[arn]["AWSCURRENT"]]

    def answers(self):
        """What an account answers."""
        return {
            ("secretsmanager", "get-secret-value"): self.get,
            ("secretsmanager", "put-secret-value"): self.put,
            ("secretsmanager", "update-secret-version-stage"): self.move,
        }

    def get(self, options):
        arn, stage = options["--secret-id"], options.get("--version-stage", "AWSCURRENT")
        if stage not in self.stages.get(arn, {}):
            raise cli.Failed("An error occurred (ResourceNotFoundException)")
        version = self.stages[arn][stage]
        return {"SecretString": self.versions[arn][version], "VersionId": version}

    def put(self, options):
        given = json.loads(Path(options["--cli-input-json"].removeprefix("file://")).read_text())
        arn, version = given["SecretId"], str(len(self.versions[given["SecretId"]]))
        self.versions[arn][version] = given["SecretString"]
        self.stages[arn] |= dict.fromkeys(given["VersionStages"], version)
        return {"VersionId": version}

    def move(self, options):
        arn, stage = options["--secret-id"], options["--version-stage"]
        # Source: UpdateSecretVersionStage. A stage that is attached must be removed from the version that has it.
        if self.stages[arn].get(stage) != options["--remove-from-version-id"]:
            raise cli.Failed("An error occurred (InvalidParameterException)")
        if "--move-to-version-id" in options:
            self.stages[arn][stage] = options["--move-to-version-id"]
        else:
            del self.stages[arn][stage]
        return {}
