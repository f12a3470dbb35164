locals {
  jwt_settings = merge(
    {
      JWT_ALGORITHM   = var.jwt_algorithm
      JWT_USER_CLAIM  = var.jwt_user_claim
      JWT_ROOMS_CLAIM = var.jwt_rooms_claim
      JWT_AUDIENCE    = var.jwt_audience
      JWT_ISSUER      = var.jwt_issuer
      JWT_LEEWAY      = tostring(var.jwt_leeway)
      JWT_REQUIRE_EXP = tostring(var.jwt_require_exp)
    },
    var.jwt_key_kind == "secret" ? { JWT_SECRET = local.secrets.jwt_key } : {},
    var.jwt_key_kind == "pem" ? { JWT_PUBLIC_KEY = local.secrets.jwt_key } : {},
    var.jwt_key_kind == "jwks" ? { JWT_JWKS = local.secrets.jwt_key } : {},
    var.jwt_key_kind == "jwks-url" ? { JWT_JWKS_URL = var.jwt_jwks_url } : {},
  )

  function_settings = merge(local.shared_settings, {
    AMQP_URL  = local.secrets.amqp_url
    REDIS_URL = local.secrets.redis_url
  })

  handshake_settings = merge(local.jwt_settings, local.queue_settings, {
    CONNECT_RATE    = var.connect_rate
    CONNECT_BURST   = tostring(var.connect_burst)
    HANDSHAKE_TOKEN = var.handshake_token
  })

  functions = {
    connect = {
      description = "Lets a client in"
      zip         = var.connect_zip
      settings    = local.handshake_settings
    }
    disconnect = {
      description = "Forgets a client"
      zip         = var.disconnect_zip
      settings    = {}
    }
    send = {
      description = "Takes whatever a client says"
      zip         = var.send_zip
      settings = merge(local.handshake_settings, {
        SENDER_SHARE   = var.sender_share
        SEND_RATE      = var.send_rate
        SEND_BURST     = tostring(var.send_burst)
        ACK_RATE       = var.ack_rate
        ACK_BURST      = tostring(var.ack_burst)
        REQUEST_RATE   = var.request_rate
        REQUEST_BURST  = tostring(var.request_burst)
        NEW_RECIPIENTS = var.new_recipients
        MESSAGE_ID_KEY = local.secrets.message_id_key
        RNO_WINDOW     = tostring(var.rno_window)
      })
    }
  }
}

# What a function may do: write its log, and nothing else. The rest is the platform's, which puts it into the VPC and decrypts
# its settings under the function's own role; those calls name no resource beforehand, so the function's process is denied
# them.
resource "aws_iam_policy" "function_platform" {
  name_prefix = "${var.name}-platform-"
  path        = var.role_path
  description = "What the Lambda service needs to run a function of kschat in a VPC"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
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
      { Sid = "Settings", Effect = "Allow", Action = "kms:Decrypt", Resource = var.key_arn },
    ]
  })
}

resource "aws_iam_role" "function" {
  for_each             = local.functions
  name_prefix          = "${var.name}-${each.key}-"
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

resource "aws_iam_role_policy_attachment" "function" {
  for_each   = aws_iam_role.function
  role       = each.value.name
  policy_arn = aws_iam_policy.function_platform.arn
}

resource "aws_iam_role_policy" "function" {
  for_each = aws_iam_role.function
  name     = "log"
  role     = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.function[each.key].arn}:*"
    }]
  })
}

resource "aws_cloudwatch_log_group" "function" {
  for_each          = local.functions
  name              = "/aws/lambda/${var.name}-${each.key}"
  retention_in_days = var.log_days
  kms_key_id        = var.key_arn
}

resource "aws_s3_object" "function" {
  for_each    = local.functions
  bucket      = var.artifact_bucket
  key         = "functions/${basename(each.value.zip)}"
  source      = each.value.zip
  source_hash = filesha256(each.value.zip)

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lambda_function" "function" {
  for_each         = local.functions
  function_name    = "${var.name}-${each.key}"
  description      = each.value.description
  s3_bucket        = aws_s3_object.function[each.key].bucket
  s3_key           = aws_s3_object.function[each.key].key
  source_code_hash = filebase64sha256(each.value.zip)
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  memory_size      = var.function_memory
  timeout          = 10 # a send is answered within three seconds even when the broker is gone; the rest is for a cold start
  kms_key_arn      = var.key_arn
  publish          = true
  role             = aws_iam_role.function[each.key].arn
  depends_on       = [aws_iam_role_policy.function, aws_iam_role_policy_attachment.function]

  reserved_concurrent_executions = var.reserve_concurrency ? local.reserved[each.key] : -1

  environment {
    variables = merge(local.function_settings, each.value.settings)
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function[each.key].name
  }

  vpc_config {
    subnet_ids         = var.function_subnet_ids
    security_group_ids = [var.functions_group_id]
  }
}

resource "aws_lambda_alias" "live" {
  for_each         = aws_lambda_function.function
  name             = "live"
  function_name    = each.value.function_name
  function_version = each.value.version
}
