mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name      = "kschat-dev"
  zips      = "tests/zips"
  image_uri = "111122223333.dkr.ecr.us-east-1.amazonaws.com/a@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

run "network_and_data_first" {
  command = plan

  variables {
    image_uri = null
  }

  assert {
    condition     = length(module.app) == 0 && length(module.observability) == 0 && output.web_socket_url == null
    error_message = "without an image there is no app"
  }
}

run "given_vpc" {
  command = plan

  variables {
    vpc = {
      vpc_id              = "vpc-given"
      vpc_cidr            = "10.9.0.0/16"
      private_subnet_ids  = ["subnet-a", "subnet-b"]
      consumer_subnet_ids = ["subnet-c", "subnet-d"]
    }
  }

  assert {
    condition     = length(module.network) == 0
    error_message = "a given VPC is used, and none is made"
  }
}

run "unknown_profile_is_refused" {
  command = plan

  variables {
    profile = "staging"
  }

  expect_failures = [var.profile]
}

run "unknown_setting_is_refused" {
  command = plan

  variables {
    app = { rate_limits = 500 }
  }

  expect_failures = [var.app]
}

run "folder_without_zips_is_refused" {
  command = plan

  variables {
    zips = "tests"
  }

  expect_failures = [var.zips]
}
