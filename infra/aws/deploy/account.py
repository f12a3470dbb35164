"""What an account needs before its first deployment, and no stack makes."""

from deploy.cli import Failed, say

# Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using-service-linked-roles.html
ECS_ROLE, ECS = "AWSServiceRoleForECS", "ecs.amazonaws.com"


def make_ecs_role(aws):
    """Makes the role under which ECS works. ECS makes it itself when it makes a first cluster, which then fails now and
    then, as the role is not there in time."""
    if aws.try_("iam", "get-role", "--role-name", ECS_ROLE):
        return
    try:
        aws("iam", "create-service-linked-role", "--aws-service-name", ECS)
    except Failed as failed:
        if "has been taken" not in str(failed):
            say(f"{ECS_ROLE} could not be made: in an account without it, repeat the deployment if its cluster fails")
