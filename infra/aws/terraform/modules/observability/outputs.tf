output "alarm_topic_arn" {
  description = "Where alarms go"
  value       = local.topic_arn
}

output "dashboard_url" {
  description = "The dashboard"
  value       = "https://${local.region}.${local.console}/cloudwatch/home?region=${local.region}#dashboards:name=${var.name}"
}
