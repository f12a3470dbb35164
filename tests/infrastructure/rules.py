"""What must be true of the deployment and no linter knows. Each rule is a function that yields what is wrong."""

import sys

sys.dont_write_bytecode = True

import rules_access  # noqa: F401
import rules_edge  # noqa: F401
import rules_operation  # noqa: F401
import rules_settings  # noqa: F401
from deployment import RULES, Deployment

from templates import ROOT


def broken(folder, root=ROOT):
    """What is wrong, as (rule, problem). A rule that trips over what it reads says so, too."""
    found = []
    try:
        deployment = Deployment(folder, root)
    except Exception as error:
        return [("the_templates_can_be_read", f"{type(error).__name__}: {error}")]
    for check in RULES:
        try:
            found += [(check.__name__, problem) for problem in check(deployment)]
        except Exception as error:
            found.append((check.__name__, f"{type(error).__name__}: {error}"))
    return found


if __name__ == "__main__":
    problems = broken(sys.argv[1] if len(sys.argv) > 1 else ROOT / "infra/aws")
    for name, problem in problems:
        print(f"{name}: {problem}")
    print(f"{len(RULES)} rules, {len(problems)} problems")
    sys.exit(1 if problems else 0)
