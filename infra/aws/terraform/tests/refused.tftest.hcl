# Values that a module refuses.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name = "kschat-dev"
}

run "network_name" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    name  = "Chat"
    zones = 4
    cidr  = "10.0.0.0/24"
  }

  expect_failures = [var.name, var.zones, var.cidr]
}

run "fewer_zone_names_than_zones" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    zones      = 3
    zone_names = ["us-east-1a", "us-east-1b"]
  }

  expect_failures = [var.zone_names]
}

run "cluster_without_standby_cache" {
  command = plan

  module {
    source = "./modules/data"
  }

  variables {
    vpc_id            = "vpc-1"
    vpc_cidr          = "10.0.0.0/16"
    subnet_ids        = ["subnet-a", "subnet-b", "subnet-c"]
    broker_users_zip  = "tests/zips/none.zip"
    broker_deployment = "CLUSTER_MULTI_AZ"
  }

  expect_failures = [var.cache_replicas]
}

run "app_values" {
  command = plan

  module {
    source = "./modules/app"
  }

  variables {
    function_subnet_ids           = ["subnet-a"]
    consumer_subnet_ids           = ["subnet-a"]
    functions_group_id            = "sg-11111111"
    consumer_group_id             = "sg-22222222"
    key_arn                       = "arn:aws:kms:us-east-1:111122223333:key/a"
    functions_amqp_url_secret_arn = "arn:aws:secretsmanager:us-east-1:111122223333:secret:a"
    amqp_url_secret_arn           = "arn:aws:secretsmanager:us-east-1:111122223333:secret:b"
    redis_url_secret_arn          = "arn:aws:secretsmanager:us-east-1:111122223333:secret:c"
    jwt_key_secret_arn            = "arn:aws:secretsmanager:us-east-1:111122223333:secret:d"
    message_id_key_secret_arn     = "arn:aws:secretsmanager:us-east-1:111122223333:secret:e"
    broker_name                   = "kschat-dev-broker"
    broker_size                   = "mq.m7g.medium"
    repository_arn                = "arn:aws:ecr:us-east-1:111122223333:repository/a"
    artifact_bucket               = "artifacts"
    connect_zip                   = "tests/zips/none.zip"
    disconnect_zip                = "tests/zips/none.zip"
    send_zip                      = "tests/zips/none.zip"

    image_uri          = "consumer:latest"
    jwt_key_kind       = "jwks-url"
    domain_name        = "chat.example.com"
    consumer_memory    = 4096
    consumer_min_tasks = 3
    send_rate          = "none"
    rate_limit         = 0
  }

  expect_failures = [
    var.image_uri,
    var.jwt_jwks_url,
    var.jwt_algorithm,
    var.certificate_arn,
    var.consumer_memory,
    var.consumer_max_tasks,
    var.send_rate,
    var.rate_limit,
  ]
}
