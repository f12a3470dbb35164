output "web_socket_url" {
  description = "Where clients connect"
  value       = one(module.app[*].web_socket_url)
}

output "callback_url" {
  description = "The connections API, for back ends of yours"
  value       = one(module.app[*].callback_url)
}

output "domain_target" {
  description = "What your domain's CNAME must point to, if its zone is not in Route 53"
  value       = one(module.app[*].domain_target)
}

output "jwt_key_secret_arn" {
  description = "The key for tokens"
  value       = module.data.jwt_key_secret_arn
}

output "repository_uri" {
  description = "Where images of the consumer go"
  value       = module.data.repository_uri
}

output "broker_console" {
  description = "The broker's management page, inside the VPC"
  value       = module.data.broker_console
}

output "dashboard_url" {
  description = "The dashboard"
  value       = one(module.observability[*].dashboard_url)
}

output "alarm_topic_arn" {
  description = "Where alarms go"
  value       = one(module.observability[*].alarm_topic_arn)
}
