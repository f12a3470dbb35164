# Plans that tests/infrastructure/terraform.py compares with the templates.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name      = "kschat-dev"
  zips      = "tests/zips"
  image_uri = "111122223333.dkr.ecr.us-east-1.amazonaws.com/a@sha256:0000000000000000000000000000000000000000000000000000000000000000"
}

run "dev" {
  command = plan
}

run "prod" {
  command = plan

  variables {
    name    = "kschat-prod"
    profile = "prod"
  }
}

run "every_option" {
  command = plan

  variables {
    permissions_boundary = "arn:aws:iam::111122223333:policy/boundary"
    role_path            = "/team/"
    network              = { zone_names = "us-east-1b,us-east-1c", flow_logs = true }
    data = {
      broker_version       = "4.2"
      console_cidr         = "10.9.0.0/24"
      console_group_id     = "sg-22222222"
      functions_call_out   = true
      trace_collector_port = 4318
      jwt_key_secret_arn   = "arn:aws:secretsmanager:us-east-1:111122223333:secret:mine"
    }
    app = {
      jwt_key_kind    = "jwks-url"
      jwt_jwks_url    = "https://issuer.example/keys"
      jwt_algorithm   = "ES256"
      access_logs     = true
      account_logging = true
      domain_name     = "chat.example.com"
      certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/a"
      hosted_zone_id  = "Z1"
    }
    observability = { alarm_topic_arn = "arn:aws:sns:us-east-1:111122223333:mine" }
  }

  assert {
    condition     = output.web_socket_url == "wss://chat.example.com" && output.alarm_topic_arn == "arn:aws:sns:us-east-1:111122223333:mine"
    error_message = "a domain and a topic of one's own are used"
  }
}
