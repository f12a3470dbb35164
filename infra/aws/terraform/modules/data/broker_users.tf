# Functions and consumer have users of their own, with the permissions of infra/rabbitmq.json. Amazon MQ can make one user of
# such a broker only, so a function inside the VPC makes these by the management of the broker. It holds no secret: the
# administrator's password comes with the call.

locals {
  broker_console = "https://${aws_mq_broker.broker.id}.mq.${local.region}.${local.dns_suffix}"

  permissions = jsondecode(file("${path.module}/../../../../rabbitmq.json"))
  broker_users = {
    kschat-functions = local.current["broker-functions"]
    kschat-consumer  = local.current["broker-consumer"]
  }

  # Method, path and body of each call.
  broker_calls = concat(
    [for user in values(local.broker_users) : [
      "PUT", "/api/users/${urlencode(user.username)}", { password = user.password, tags = "" },
    ]],
    flatten([for kind in ["permissions", "topic_permissions"] : [for given in local.permissions[kind] : {
      call = [
        "PUT",
        "/api/${replace(kind, "_", "-")}/${urlencode(given.vhost)}/${urlencode(local.broker_users[given.user].username)}",
        { for key, value in given : key => value if !contains(["user", "vhost"], key) },
      ]
    }]])[*].call,
  )
}

resource "aws_iam_role" "broker_users" {
  name_prefix          = "${var.name}-users-"
  path                 = var.role_path
  permissions_boundary = local.boundary
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "broker_users" {
  name = "run"
  role = aws_iam_role.broker_users.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.broker_users.arn}:*"
      },
      {
        Sid    = "Network"
        Effect = "Allow"
        Action = [
          "ec2:CreateNetworkInterface",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSubnets",
          "ec2:DeleteNetworkInterface",
          "ec2:AssignPrivateIpAddresses",
          "ec2:UnassignPrivateIpAddresses",
        ]
        Resource = "*"
      },
      {
        Sid      = "NotTheFunctionItself"
        Effect   = "Deny"
        Action   = "ec2:*"
        Resource = "*"
        Condition = {
          ArnLike = {
            "lambda:SourceFunctionArn" = "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}-*"
          }
        }
      },
    ]
  })
}

resource "aws_cloudwatch_log_group" "broker_users" {
  name              = "/aws/lambda/${var.name}-broker-users"
  retention_in_days = 30
  kms_key_id        = aws_kms_key.key.arn
}

resource "aws_lambda_function" "broker_users" {
  function_name    = "${var.name}-broker-users"
  description      = "Calls the management of the broker"
  filename         = var.broker_users_zip
  source_code_hash = filebase64sha256(var.broker_users_zip)
  runtime          = "python3.13"
  handler          = "index.handler"
  architectures    = ["arm64"]
  memory_size      = 512
  timeout          = 60
  role             = aws_iam_role.broker_users.arn
  depends_on       = [aws_iam_role_policy.broker_users]

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.broker_users.name
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.broker_users.id]
  }
}

# Called when a user, a password or a permission has changed.
resource "aws_lambda_invocation" "broker_users" {
  function_name = aws_lambda_function.broker_users.function_name
  input = jsonencode({
    url   = local.broker_console
    admin = local.current["broker"]
    calls = local.broker_calls
  })
}
