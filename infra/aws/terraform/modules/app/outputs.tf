output "web_socket_url" {
  description = "Where clients connect"
  value       = local.has_domain ? "wss://${var.domain_name}" : replace(local.callback_url, "https://", "wss://")
}

output "callback_url" {
  description = "The connections API, for back ends of yours. It stays valid beside a domain of your own."
  value       = local.callback_url
}

output "api_id" {
  description = "The API in CloudWatch"
  value       = aws_apigatewayv2_api.api.id
}

output "stage_name" {
  description = "Its stage"
  value       = var.stage
}

output "cluster_name" {
  description = "The cluster of the consumer"
  value       = aws_ecs_cluster.cluster.name
}

output "service_name" {
  description = "The service of the consumer"
  value       = aws_ecs_service.consumer.name
}

output "domain_target" {
  description = "What your domain's CNAME must point to, if its zone is not in Route 53"
  value       = local.has_domain ? aws_apigatewayv2_domain_name.domain[0].domain_name_configuration[0].target_domain_name : null
}
