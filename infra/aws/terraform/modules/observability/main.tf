data "aws_region" "current" {}

data "aws_partition" "current" {}

locals {
  region      = data.aws_region.current.id
  consoles    = { aws-cn = "console.amazonaws.cn", aws-us-gov = "console.amazonaws-us-gov.com" }
  console     = lookup(local.consoles, data.aws_partition.current.partition, "console.aws.amazon.com")
  makes_topic = var.alarm_topic_arn == ""
  topic_arn   = local.makes_topic ? aws_sns_topic.alarms[0].arn : var.alarm_topic_arn
  limits      = jsondecode(file("${path.module}/../../../broker-limits.json"))[var.broker_limits][var.broker_size]
}

resource "aws_sns_topic" "alarms" {
  count             = local.makes_topic ? 1 : 0
  name              = "${var.name}-alarms"
  kms_master_key_id = var.key_arn
}

resource "aws_sns_topic_subscription" "mail" {
  count     = local.makes_topic && var.alarm_email != "" ? 1 : 0
  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  broker   = { Broker = var.broker_name }
  consumer = { ClusterName = var.cluster_name, ServiceName = var.service_name }
  own      = "kschat/${var.name}" # what the programs say of themselves: shared/docs/METRICS.md

  function_alarms = merge([for function in ["connect", "disconnect", "send"] : {
    "${function}-errors" = {
      description = "The function ${function} fails or is cut off."
      metric      = ["AWS/Lambda", "Errors", { FunctionName = "${var.name}-${function}" }]
      threshold   = var.sends_failing
      of          = [1, 1]
      statistic   = "Sum"
    }
    "${function}-throttles" = {
      description = "The function ${function} is wanted more often than it may run; clients are refused."
      metric      = ["AWS/Lambda", "Throttles", { FunctionName = "${var.name}-${function}" }]
      threshold   = 1
      statistic   = "Sum"
    }
  }]...)

  # Alarms on one metric: namespace, name and dimensions. Each name stands in the runbook with what to do. Unless said
  # otherwise an alarm goes off when two of three periods of five minutes reach the threshold, and missing data is good.
  alarms = merge(local.function_alarms, {
    broker-connections = {
      description = "Connections come near to the broker's limit; then functions can't connect."
      metric      = ["AWS/AmazonMQ", "ConnectionCount", local.broker]
      threshold   = floor(local.limits.connections * 4 / 5)
      statistic   = "Maximum"
    }
    broker-queues = {
      description = "Queues, one a user, come near to the broker's limit; then new users can't connect."
      metric      = ["AWS/AmazonMQ", "QueueCount", local.broker]
      threshold   = floor(local.limits.queues * 4 / 5)
      statistic   = "Maximum"
    }
    broker-silent = {
      description = "Nobody is connected to the broker, not even the consumer; it is away, or they can't reach it."
      metric      = ["AWS/AmazonMQ", "ConnectionCount", local.broker]
      threshold   = 1
      comparison  = "LessThanThreshold"
      of          = [5, 5]
      period      = 60
      missing     = "breaching"
      statistic   = "Maximum"
    }
    messages-ready = {
      description = "Many messages wait; users are away for long, or nobody delivers."
      metric      = ["AWS/AmazonMQ", "MessageReadyCount", local.broker]
      threshold   = var.ready_messages
      statistic   = "Maximum"
    }
    send-slow = {
      description = "Sends take long, in the slowest hundredth; the broker or the cache is slow."
      metric      = ["AWS/Lambda", "Duration", { FunctionName = "${var.name}-send" }]
      threshold   = 3000
      percentile  = "p99"
    }
    api-failing = {
      description = "The edge could not call a function, or did not understand it."
      metric      = ["AWS/ApiGateway", "IntegrationError", { ApiId = var.api_id, Stage = var.stage_name }]
      threshold   = 5
      statistic   = "Sum"
    }
    consumer-tasks = {
      description = "No task of the consumer runs; nobody gets a message."
      metric      = ["ECS/ContainerInsights", "RunningTaskCount", local.consumer]
      threshold   = 1
      comparison  = "LessThanThreshold"
      of          = [5, 5]
      period      = 60
      statistic   = "Minimum"
    }
    consumer-processor = {
      description = "Tasks of the consumer are at their limit although more were started."
      metric      = ["AWS/ECS", "CPUUtilization", local.consumer]
      threshold   = 90
      statistic   = "Average"
    }
    consumer-memory = {
      description = "Tasks of the consumer run out of memory."
      metric      = ["AWS/ECS", "MemoryUtilization", local.consumer]
      threshold   = 85
      statistic   = "Maximum"
    }
    pushes-gone = {
      description = "Many pushes go to connections that are gone; clients break off without saying so."
      metric      = [local.own, "kschat_pushes_total", { outcome = "gone" }]
      threshold   = 1000
      statistic   = "Sum"
    }
    pushes-refused = {
      description = "The edge refuses pushes; a permission or the callback URL is wrong."
      metric      = [local.own, "kschat_pushes_total", { outcome = "refused" }]
      threshold   = 10
      statistic   = "Sum"
    }
    pushes-slow = {
      description = "Pushes take long, in the slowest hundredth; messages are old when they arrive."
      metric      = [local.own, "kschat_push_seconds", {}]
      threshold   = 5
      percentile  = "p99"
    }
    users-stuck = {
      description = "Users can't be served and rest; the broker, the cache or the edge fails for them."
      metric      = [local.own, "kschat_resting_users", { cause = "stuck" }]
      threshold   = 10
      statistic   = "Maximum"
    }
    dead-letters = {
      description = "Messages were dead-lettered."
      metric      = [local.own, "kschat_dead_letters_total", {}]
      threshold   = 1
      of          = [1, 1]
      statistic   = "Sum"
    }
  })

  broker_memory = { used = "RabbitMQMemUsed", limit = "RabbitMQMemLimit" }
  broker_disk   = { used = "RabbitMQDiskFree", limit = "RabbitMQDiskFreeLimit" }

  # Nodes publish, each as CacheClusterId, the group's id and a number; nothing is published for the group.
  # Source: https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/CloudWatchMetrics.html
  nodes = { for node in range(1, var.cache_replicas + 2) : "node${node}" => { CacheClusterId = format("%s-%03d", var.cache_id, node) } }

  # Alarms that calculate with the largest values of five minutes.
  calculating_alarms = {
    broker-memory = {
      description = "The broker's memory runs out; then it takes no more messages."
      namespace   = "AWS/AmazonMQ"
      metrics     = { for id, name in local.broker_memory : id => { name = name, dimensions = local.broker } }
      expression  = { id = "share", text = "100 * used / limit" }
      threshold   = 80
    }
    broker-disk = {
      description = "The broker's disk runs out; then it takes no more messages."
      namespace   = "AWS/AmazonMQ"
      metrics     = { for id, name in local.broker_disk : id => { name = name, dimensions = local.broker } }
      expression  = { id = "share", text = "used / limit" }
      threshold   = 2
      comparison  = "LessThanOrEqualToThreshold"
    }
    # A cache of which nothing is heard is no healthy one.
    cache-memory = {
      description = "The cache runs out of memory; then nobody can connect."
      namespace   = "AWS/ElastiCache"
      metrics     = { for id, node in local.nodes : id => { name = "DatabaseMemoryUsagePercentage", dimensions = node } }
      expression  = { id = "worst", text = "MAX(METRICS())" }
      threshold   = 80
      missing     = "breaching"
    }
    cache-processor = {
      description = "The cache is at its limit; everything becomes slow."
      namespace   = "AWS/ElastiCache"
      metrics     = { for id, node in local.nodes : id => { name = "EngineCPUUtilization", dimensions = node } }
      expression  = { id = "worst", text = "MAX(METRICS())" }
      threshold   = 80
      missing     = "breaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "metric" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  namespace           = each.value.metric[0]
  metric_name         = each.value.metric[1]
  dimensions          = each.value.metric[2]
  statistic           = try(each.value.statistic, null)
  extended_statistic  = try(each.value.percentile, null)
  period              = try(each.value.period, 300)
  threshold           = each.value.threshold
  comparison_operator = try(each.value.comparison, "GreaterThanOrEqualToThreshold")
  datapoints_to_alarm = try(each.value.of[0], 2)
  evaluation_periods  = try(each.value.of[1], 3)
  treat_missing_data  = try(each.value.missing, "notBreaching")
}

resource "aws_cloudwatch_metric_alarm" "calculating" {
  for_each            = local.calculating_alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  alarm_actions       = [local.topic_arn]
  ok_actions          = [local.topic_arn]
  threshold           = each.value.threshold
  comparison_operator = try(each.value.comparison, "GreaterThanOrEqualToThreshold")
  datapoints_to_alarm = 2
  evaluation_periods  = 3
  treat_missing_data  = try(each.value.missing, "notBreaching")

  dynamic "metric_query" {
    for_each = each.value.metrics
    content {
      id          = metric_query.key
      return_data = false

      metric {
        stat        = "Maximum"
        period      = 300
        namespace   = each.value.namespace
        metric_name = metric_query.value.name
        dimensions  = metric_query.value.dimensions
      }
    }
  }

  metric_query {
    id          = each.value.expression.id
    expression  = each.value.expression.text
    label       = "percent"
    return_data = true
  }
}
