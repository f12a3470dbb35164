resource "aws_apigatewayv2_api" "api" {
  name                       = var.name
  description                = "kschat ${var.name}"
  protocol_type              = "WEBSOCKET"
  route_selection_expression = "$request.body.action"
  ip_address_type            = "dualstack"
}

# The routes that call a function. API Gateway refuses concurrent changes of one API; the provider repeats them.
# Source: hashicorp/terraform-provider-aws, internal/service/apigatewayv2/service_package.go
locals {
  routes = {
    connect    = { key = "$connect", function = "connect", answers = false }
    disconnect = { key = "$disconnect", function = "disconnect", answers = false }
    default    = { key = "$default", function = "send", answers = true }
    send       = { key = "send", function = "send", answers = true }
    ack        = { key = "ack", function = "send", answers = true }
  }
}

resource "aws_apigatewayv2_integration" "function" {
  for_each             = local.routes
  api_id               = aws_apigatewayv2_api.api.id
  integration_type     = "AWS_PROXY"
  integration_uri      = aws_lambda_alias.live[each.value.function].invoke_arn
  timeout_milliseconds = 10000
}

resource "aws_apigatewayv2_route" "function" {
  for_each           = local.routes
  api_id             = aws_apigatewayv2_api.api.id
  route_key          = each.value.key
  target             = "integrations/${aws_apigatewayv2_integration.function[each.key].id}"
  authorization_type = "NONE"

  route_response_selection_expression = each.value.answers ? "$default" : null
}

resource "aws_apigatewayv2_route_response" "function" {
  for_each           = { for name, route in local.routes : name => route if route.answers }
  api_id             = aws_apigatewayv2_api.api.id
  route_id           = aws_apigatewayv2_route.function[each.key].id
  route_response_key = "$default"
}

# The edge answers a ping itself: no function runs.
resource "aws_apigatewayv2_integration" "ping" {
  api_id                        = aws_apigatewayv2_api.api.id
  integration_type              = "MOCK"
  passthrough_behavior          = "WHEN_NO_MATCH"
  template_selection_expression = "\\$default"
  request_templates             = { "$default" = jsonencode({ statusCode = 200 }) }
}

resource "aws_apigatewayv2_integration_response" "ping" {
  api_id                        = aws_apigatewayv2_api.api.id
  integration_id                = aws_apigatewayv2_integration.ping.id
  integration_response_key      = "$default"
  template_selection_expression = "\\$default"
  response_templates            = { "$default" = "{\"event\":\"RESPPONG\",\"RC\":1,\"ER\":0}" }
}

resource "aws_apigatewayv2_route" "ping" {
  api_id             = aws_apigatewayv2_api.api.id
  route_key          = "ping"
  target             = "integrations/${aws_apigatewayv2_integration.ping.id}"
  authorization_type = "NONE"
  depends_on         = [aws_apigatewayv2_integration_response.ping]

  route_response_selection_expression = "$default"
}

resource "aws_apigatewayv2_route_response" "ping" {
  api_id             = aws_apigatewayv2_api.api.id
  route_id           = aws_apigatewayv2_route.ping.id
  route_response_key = "$default"
}

# It comes last, and so deploys all of them at once.
resource "aws_apigatewayv2_stage" "stage" {
  api_id      = aws_apigatewayv2_api.api.id
  name        = var.stage
  auto_deploy = true
  depends_on  = [aws_apigatewayv2_route_response.function, aws_apigatewayv2_route_response.ping, aws_apigatewayv2_route.function]

  default_route_settings {
    throttling_rate_limit  = var.rate_limit
    throttling_burst_limit = var.burst_limit
  }

  dynamic "access_log_settings" {
    for_each = aws_cloudwatch_log_group.access
    content {
      destination_arn = access_log_settings.value.arn

      # No query, as that may hold a token, and no body.
      format = jsonencode({
        requestId        = "$context.requestId"
        connectionId     = "$context.connectionId"
        routeKey         = "$context.routeKey"
        eventType        = "$context.eventType"
        status           = "$context.status"
        error            = "$context.error.message"
        integrationError = "$context.integrationErrorMessage"
        requestTimeEpoch = "$context.requestTimeEpoch"
      })
    }
  }
}

# Who may call the functions: this stage, each route.
resource "aws_lambda_permission" "route" {
  for_each      = local.routes
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_alias.live[each.value.function].function_name
  qualifier     = aws_lambda_alias.live[each.value.function].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${local.execution_arn}/${each.value.key}"
}

# The account's role comes after the API, as an account that never had one can't be given a role, and before the log that the
# stage waits for.
# Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-apigateway-account.html
resource "aws_iam_role" "logging" {
  count                = var.account_logging ? 1 : 0
  name_prefix          = "${var.name}-logging-"
  path                 = var.role_path
  permissions_boundary = local.boundary
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "apigateway.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_iam_role_policy_attachment" "logging" {
  count      = var.account_logging ? 1 : 0
  role       = aws_iam_role.logging[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
}

resource "aws_api_gateway_account" "account" {
  count               = var.account_logging ? 1 : 0
  cloudwatch_role_arn = aws_iam_role.logging[0].arn
  depends_on          = [aws_apigatewayv2_api.api, aws_iam_role_policy_attachment.logging]
}

resource "aws_cloudwatch_log_group" "access" {
  count             = var.access_logs ? 1 : 0
  name              = "/${var.name}/access"
  retention_in_days = var.log_days
  kms_key_id        = var.key_arn
  depends_on        = [aws_api_gateway_account.account]
}

resource "aws_apigatewayv2_domain_name" "domain" {
  count       = local.has_domain ? 1 : 0
  domain_name = var.domain_name

  domain_name_configuration {
    certificate_arn = var.certificate_arn
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "domain" {
  count       = local.has_domain ? 1 : 0
  api_id      = aws_apigatewayv2_api.api.id
  domain_name = aws_apigatewayv2_domain_name.domain[0].id
  stage       = aws_apigatewayv2_stage.stage.id
}

resource "aws_route53_record" "domain" {
  count   = local.has_domain && var.hosted_zone_id != "" ? 1 : 0
  zone_id = var.hosted_zone_id
  name    = var.domain_name
  type    = "A"

  alias {
    name                   = aws_apigatewayv2_domain_name.domain[0].domain_name_configuration[0].target_domain_name
    zone_id                = aws_apigatewayv2_domain_name.domain[0].domain_name_configuration[0].hosted_zone_id
    evaluate_target_health = false
  }
}
