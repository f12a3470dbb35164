data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  region     = data.aws_region.current.id
  account    = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  dns_suffix = data.aws_partition.current.dns_suffix

  boundary   = var.permissions_boundary == "" ? null : var.permissions_boundary
  has_domain = var.domain_name != ""

  # Every warm environment of a function holds one connection to the broker, so their number is limited.
  reserved = jsondecode(file("${path.module}/../../../broker-limits.json"))[var.broker_limits][var.broker_size].reserved

  callback_url      = "https://${aws_apigatewayv2_api.api.id}.execute-api.${local.region}.${local.dns_suffix}/${var.stage}"
  execution_arn     = "arn:${local.partition}:execute-api:${local.region}:${local.account}:${aws_apigatewayv2_api.api.id}/${var.stage}"
  metrics_namespace = "kschat/${var.name}"

  # Settings of functions and consumer.
  shared_settings = {
    PARTITIONS                  = tostring(var.partitions)
    LOG_FORMAT                  = "json"
    RUST_LOG                    = var.log_level
    METRICS_EMF                 = tostring(var.metrics)
    METRICS_NAMESPACE           = local.metrics_namespace
    OTEL_EXPORTER_OTLP_ENDPOINT = var.trace_collector
  }

  # Settings of whatever declares queues.
  queue_settings = {
    QUEUE_TYPE         = var.queue_type
    MESSAGE_RETENTION  = tostring(var.message_retention)
    QUEUE_MAX_MESSAGES = tostring(var.queue_max_messages)
    QUEUE_MAX_BYTES    = tostring(var.queue_max_bytes)
    UNKNOWN_RECIPIENT  = var.unknown_recipient
  }
}

# The current values. The functions read settings only, so the state holds these values.
data "aws_secretsmanager_secret_version" "current" {
  for_each = {
    amqp_url       = var.functions_amqp_url_secret_arn
    redis_url      = var.redis_url_secret_arn
    jwt_key        = var.jwt_key_secret_arn
    message_id_key = var.message_id_key_secret_arn
  }
  secret_id = each.value
}

data "aws_secretsmanager_secret_version" "consumer_amqp_url" {
  secret_id = var.amqp_url_secret_arn
}

locals {
  secrets = { for key, version in data.aws_secretsmanager_secret_version.current : key => version.secret_string }

  # A new secret is a new revision of the task, which then reads it.
  revision = sha256(join(" ", [
    data.aws_secretsmanager_secret_version.consumer_amqp_url.version_id,
    data.aws_secretsmanager_secret_version.current["redis_url"].version_id,
  ]))
}

resource "aws_ecs_cluster" "cluster" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = var.container_insights
  }
}

resource "aws_cloudwatch_log_group" "consumer" {
  name              = "/${var.name}/consumer"
  retention_in_days = var.log_days
  kms_key_id        = var.key_arn
}

locals {
  assumed_by_tasks = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

# Starts a task: image, secrets, log. The programs never have it.
resource "aws_iam_role" "consumer_start" {
  name_prefix          = "${var.name}-start-"
  path                 = var.role_path
  permissions_boundary = local.boundary
  assume_role_policy   = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "consumer_start" {
  name = "start"
  role = aws_iam_role.consumer_start.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      # This one call can't be limited to a repository.
      { Effect = "Allow", Action = "ecr:GetAuthorizationToken", Resource = "*" },
      {
        Effect   = "Allow"
        Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource = var.repository_arn
      },
      {
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = [var.amqp_url_secret_arn, var.redis_url_secret_arn]
      },
      { Effect = "Allow", Action = "kms:Decrypt", Resource = var.key_arn },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.consumer.arn}:*"
      },
    ]
  })
}

# What the consumer itself may do: push, close connections, and ask whether they are open.
resource "aws_iam_role" "consumer" {
  name_prefix          = "${var.name}-consumer-"
  path                 = var.role_path
  permissions_boundary = local.boundary
  assume_role_policy   = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "consumer" {
  name = "push"
  role = aws_iam_role.consumer.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "execute-api:ManageConnections"
      Resource = [for method in ["POST", "DELETE", "GET"] : "${local.execution_arn}/${method}/@connections/*"]
    }]
  })
}

locals {
  consumer_settings = merge(local.shared_settings, local.queue_settings, {
    CALLBACK_URL = local.callback_url
    PREFETCH     = tostring(var.prefetch)
    RECEIPTS     = var.receipts
    HEALTH_ADDR  = "127.0.0.1:8080"
    AWS_REGION   = local.region # for the SDK's signatures
  })
}

resource "aws_ecs_task_definition" "consumer" {
  family                   = "${var.name}-consumer"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.consumer_cpu
  memory                   = var.consumer_memory
  execution_role_arn       = aws_iam_role.consumer_start.arn
  task_role_arn            = aws_iam_role.consumer.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture == "arm64" ? "ARM64" : "X86_64"
  }

  container_definitions = jsonencode([{
    name                   = "consumer"
    image                  = var.image_uri
    essential              = true
    user                   = "65532:65532"
    readonlyRootFilesystem = true
    privileged             = false
    linuxParameters        = { capabilities = { drop = ["ALL"] } }
    stopTimeout            = 60 # longer than the consumer takes to finish what is under way and to hand over
    ulimits                = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    dockerLabels           = { "kschat.revision" = local.revision }
    environment            = [for name, value in local.consumer_settings : { name = name, value = value }]
    secrets = [
      { name = "AMQP_URL", valueFrom = var.amqp_url_secret_arn },
      { name = "REDIS_URL", valueFrom = var.redis_url_secret_arn },
    ]

    # A broker that is away for a while is no reason to restart; five minutes of it are. Redis is never one: the consumers'
    # memory restores the sessions after its outage.
    healthCheck = {
      command     = ["CMD", "/probe", "127.0.0.1:8080", "/healthz/broker"]
      interval    = 30
      timeout     = 5
      retries     = 10
      startPeriod = 60
    }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.consumer.name
        "awslogs-region"        = local.region
        "awslogs-stream-prefix" = "consumer"
        "mode"                  = "non-blocking"
        "max-buffer-size"       = "8m"
      }
    }
  }])
}

resource "aws_ecs_service" "consumer" {
  name                  = "${var.name}-consumer"
  cluster               = aws_ecs_cluster.cluster.id
  launch_type           = "FARGATE"
  platform_version      = "1.4.0"
  task_definition       = aws_ecs_task_definition.consumer.arn
  desired_count         = var.consumer_min_tasks
  wait_for_steady_state = true # so that an apply fails if the tasks do not start
  depends_on            = [aws_iam_role_policy.consumer_start, aws_iam_role_policy.consumer]

  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"

  network_configuration {
    assign_public_ip = var.consumer_public_ip == "ENABLED"
    subnets          = var.consumer_subnet_ids
    security_groups  = [var.consumer_group_id]
  }

  lifecycle {
    ignore_changes = [desired_count] # scaling sets it
  }
}

resource "aws_appautoscaling_target" "consumer" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.cluster.name}/${aws_ecs_service.consumer.name}"
  min_capacity       = var.consumer_min_tasks
  max_capacity       = var.consumer_max_tasks
}

# Messages of offline users are no work: only messages that tasks have in flight count.
resource "aws_appautoscaling_policy" "backlog" {
  count              = var.container_insights == "enabled" ? 1 : 0
  name               = "${var.name}-backlog"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.consumer.service_namespace
  scalable_dimension = aws_appautoscaling_target.consumer.scalable_dimension
  resource_id        = aws_appautoscaling_target.consumer.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.backlog_per_task
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    customized_metric_specification {
      metrics {
        id          = "lent"
        return_data = false

        metric_stat {
          stat = "Average"

          metric {
            namespace   = "AWS/AmazonMQ"
            metric_name = "MessageUnacknowledgedCount"

            dimensions {
              name  = "Broker"
              value = var.broker_name
            }
          }
        }
      }

      metrics {
        id          = "tasks"
        return_data = false

        metric_stat {
          stat = "Average"

          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"

            dimensions {
              name  = "ClusterName"
              value = aws_ecs_cluster.cluster.name
            }

            dimensions {
              name  = "ServiceName"
              value = aws_ecs_service.consumer.name
            }
          }
        }
      }

      metrics {
        id          = "share"
        expression  = "lent / tasks"
        label       = "unacknowledged messages per task"
        return_data = true
      }
    }
  }
}

resource "aws_appautoscaling_policy" "processor" {
  name               = "${var.name}-processor"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.consumer.service_namespace
  scalable_dimension = aws_appautoscaling_target.consumer.scalable_dimension
  resource_id        = aws_appautoscaling_target.consumer.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
