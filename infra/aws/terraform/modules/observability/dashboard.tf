resource "aws_cloudwatch_dashboard" "dashboard" {
  dashboard_name = var.name
  dashboard_body = jsonencode({ widgets = [for widget in local.widgets : {
    type   = "metric"
    x      = widget.x
    y      = widget.y
    width  = widget.width
    height = 6
    properties = {
      title   = widget.title
      region  = local.region
      stat    = widget.stat
      period  = 60
      metrics = widget.metrics
    }
  }] })
}

locals {
  searched_nodes = join(" OR ", [for node in range(1, 7) : format("\"%s-%03d\"", var.cache_id, node)])

  widgets = [
    {
      title = "Clients and frames", stat = "Sum", x = 0, y = 0, width = 12
      metrics = [
        ["AWS/ApiGateway", "ConnectCount", "ApiId", var.api_id, "Stage", var.stage_name],
        [".", "MessageCount", ".", ".", ".", "."],
      ]
    },
    {
      title = "Errors", stat = "Sum", x = 12, y = 0, width = 12
      metrics = [
        ["AWS/ApiGateway", "IntegrationError", "ApiId", var.api_id, "Stage", var.stage_name],
        [".", "ClientError", ".", ".", ".", "."],
        ["AWS/Lambda", "Errors", "FunctionName", "${var.name}-connect"],
        ["...", "${var.name}-disconnect"],
        ["...", "${var.name}-send"],
        [".", "Throttles", ".", "${var.name}-send"],
      ]
    },
    {
      title = "Functions, ms", stat = "p99", x = 0, y = 6, width = 12
      metrics = [
        ["AWS/Lambda", "Duration", "FunctionName", "${var.name}-connect"],
        ["...", "${var.name}-disconnect"],
        ["...", "${var.name}-send"],
      ]
    },
    {
      title = "Messages in the broker", stat = "Maximum", x = 12, y = 6, width = 12
      metrics = [
        ["AWS/AmazonMQ", "MessageReadyCount", "Broker", var.broker_name],
        [".", "MessageUnacknowledgedCount", ".", "."],
      ]
    },
    {
      title = "Queues and connections", stat = "Maximum", x = 0, y = 12, width = 8
      metrics = [
        ["AWS/AmazonMQ", "QueueCount", "Broker", var.broker_name],
        [".", "ConnectionCount", ".", ".", { yAxis = "right" }],
      ]
    },
    {
      title = "Consumer", stat = "Average", x = 8, y = 12, width = 8
      metrics = [
        ["AWS/ECS", "CPUUtilization", "ClusterName", var.cluster_name, "ServiceName", var.service_name],
        [".", "MemoryUtilization", ".", ".", ".", "."],
        ["ECS/ContainerInsights", "RunningTaskCount", ".", ".", ".", ".", { yAxis = "right" }],
      ]
    },
    {
      title = "Cache, percent", stat = "Maximum", x = 16, y = 12, width = 8
      metrics = [
        [{ expression = "SEARCH('{AWS/ElastiCache,CacheClusterId} MetricName=(\"DatabaseMemoryUsagePercentage\" OR \"EngineCPUUtilization\") CacheClusterId=(${local.searched_nodes})', 'Maximum', 60)" }],
      ]
    },
    {
      title = "Seconds, p99, hop by hop", stat = "p99", x = 0, y = 18, width = 12
      metrics = [
        [local.own, "kschat_accept_seconds"],
        [local.own, "kschat_push_seconds"],
        [local.own, "kschat_ack_seconds"],
      ]
    },
    {
      title = "Pushes by outcome", stat = "Sum", x = 12, y = 18, width = 12
      metrics = [
        [local.own, "kschat_pushes_total", "outcome", "reached"],
        ["...", "gone"],
        ["...", "busy"],
        ["...", "refused"],
        [local.own, "kschat_redeliveries_total"],
      ]
    },
  ]
}
