# What AWS would answer: ids and ARNs of the right form, the same for all resources of a type.

mock_data "aws_region" {
  defaults = {
    id   = "us-east-1"
    name = "us-east-1"
  }
}

mock_data "aws_caller_identity" {
  defaults = {
    account_id = "111122223333"
  }
}

mock_data "aws_partition" {
  defaults = {
    partition  = "aws"
    dns_suffix = "amazonaws.com"
  }
}

mock_data "aws_availability_zones" {
  defaults = {
    names = ["us-east-1a", "us-east-1b", "us-east-1c"]
  }
}

mock_data "aws_secretsmanager_random_password" {
  defaults = {
    random_password = "random"
  }
}

mock_data "aws_secretsmanager_secret_version" {
  defaults = {
    secret_string = "{\"username\":\"user\",\"password\":\"passwordpassword\",\"token\":\"tokentokentokentoken\"}"
    version_id    = "v1"
  }
}

mock_resource "aws_cloudwatch_log_group" {
  override_during = plan
  defaults = {
    arn = "arn:aws:logs:us-east-1:111122223333:log-group:a"
  }
}

mock_resource "aws_iam_role" {
  override_during = plan
  defaults = {
    arn  = "arn:aws:iam::111122223333:role/a"
    id   = "a"
    name = "a"
  }
}

mock_resource "aws_iam_policy" {
  override_during = plan
  defaults = {
    arn = "arn:aws:iam::111122223333:policy/a"
  }
}

mock_resource "aws_kms_key" {
  override_during = plan
  defaults = {
    arn    = "arn:aws:kms:us-east-1:111122223333:key/a"
    key_id = "a"
  }
}

mock_resource "aws_s3_bucket" {
  override_during = plan
  defaults = {
    arn = "arn:aws:s3:::artifacts"
    id  = "artifacts"
  }
}

mock_resource "aws_ecr_repository" {
  override_during = plan
  defaults = {
    arn            = "arn:aws:ecr:us-east-1:111122223333:repository/a"
    repository_url = "111122223333.dkr.ecr.us-east-1.amazonaws.com/a"
  }
}

mock_resource "aws_secretsmanager_secret" {
  override_during = plan
  defaults = {
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:a"
    id  = "arn:aws:secretsmanager:us-east-1:111122223333:secret:a"
  }
}

mock_resource "aws_secretsmanager_secret_version" {
  override_during = plan
  defaults = {
    arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:a"
  }
}

mock_resource "aws_sns_topic" {
  override_during = plan
  defaults = {
    arn = "arn:aws:sns:us-east-1:111122223333:a"
  }
}

mock_resource "aws_vpc" {
  override_during = plan
  defaults = {
    id = "vpc-1"
  }
}

mock_resource "aws_subnet" {
  override_during = plan
  defaults = {
    id = "subnet-1"
  }
}

mock_resource "aws_security_group" {
  override_during = plan
  defaults = {
    id = "sg-11111111"
  }
}

mock_resource "aws_mq_broker" {
  override_during = plan
  defaults = {
    id        = "b-1"
    instances = [{ endpoints = ["amqps://b-1.mq.us-east-1.amazonaws.com:5671"] }]
  }
}

mock_resource "aws_mq_configuration" {
  override_during = plan
  defaults = {
    id              = "c-1"
    latest_revision = 1
  }
}

mock_resource "aws_elasticache_replication_group" {
  override_during = plan
  defaults = {
    primary_endpoint_address = "cache"
  }
}

mock_resource "aws_apigatewayv2_api" {
  override_during = plan
  defaults = {
    id = "api1"
  }
}

mock_resource "aws_apigatewayv2_integration" {
  override_during = plan
  defaults = {
    id = "i1"
  }
}

mock_resource "aws_apigatewayv2_domain_name" {
  override_during = plan
  defaults = {
    id = "d"
  }
}

mock_resource "aws_lambda_function" {
  override_during = plan
  defaults = {
    arn     = "arn:aws:lambda:us-east-1:111122223333:function:a"
    version = "1"
  }
}

mock_resource "aws_lambda_alias" {
  override_during = plan
  defaults = {
    invoke_arn = "arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/arn:aws:lambda:us-east-1:111122223333:function:a:live/invocations"
  }
}

mock_resource "aws_ecs_cluster" {
  override_during = plan
  defaults = {
    id = "arn:aws:ecs:us-east-1:111122223333:cluster/a"
  }
}

mock_resource "aws_ecs_task_definition" {
  override_during = plan
  defaults = {
    arn = "arn:aws:ecs:us-east-1:111122223333:task-definition/a:1"
  }
}

