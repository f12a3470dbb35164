output "key_arn" {
  description = "The key of this deployment"
  value       = aws_kms_key.key.arn
}

output "functions_group_id" {
  description = "The security group of the functions"
  value       = aws_security_group.functions.id
}

output "consumer_group_id" {
  description = "The security group of the consumer"
  value       = aws_security_group.consumer.id
}

output "broker_name" {
  description = "The broker in CloudWatch"
  value       = aws_mq_broker.broker.broker_name
}

output "broker_id" {
  description = "The broker"
  value       = aws_mq_broker.broker.id
}

output "broker_size" {
  description = "Its size"
  value       = var.broker_instance_type
}

output "broker_limits" {
  description = "Whether it has the largest limits that its size may have"
  value       = local.sets_limits && local.is_cluster ? "default" : "maximum"
}

output "broker_console" {
  description = "Its management page, inside the VPC"
  value       = local.broker_console
}

output "broker_secret_arn" {
  description = "The administrator of the broker"
  value       = aws_secretsmanager_secret_version.generated["broker"].arn
}

output "functions_broker_secret_arn" {
  description = "The user of functions"
  value       = aws_secretsmanager_secret_version.generated["broker-functions"].arn
}

output "consumer_broker_secret_arn" {
  description = "The user of the consumer"
  value       = aws_secretsmanager_secret_version.generated["broker-consumer"].arn
}

output "broker_users_function" {
  description = "What makes the users of the broker"
  value       = aws_lambda_function.broker_users.function_name
}

output "functions_amqp_url_secret_arn" {
  description = "The URL of the broker for functions"
  value       = aws_secretsmanager_secret_version.url["amqp-url-functions"].arn
  depends_on  = [aws_lambda_invocation.broker_users] # whoever reads it finds the user
}

output "amqp_url_secret_arn" {
  description = "The URL of the broker for the consumer"
  value       = aws_secretsmanager_secret_version.url["amqp-url"].arn
  depends_on  = [aws_lambda_invocation.broker_users] # whoever reads it finds the user
}

output "cache_secret_arn" {
  description = "The token of the cache"
  value       = aws_secretsmanager_secret_version.generated["cache"].arn
}

output "redis_url_secret_arn" {
  description = "The URL of the cache"
  value       = aws_secretsmanager_secret_version.url["redis-url"].arn
}

output "jwt_key_secret_arn" {
  description = "The key for tokens"
  value       = var.jwt_key_secret_arn != "" ? var.jwt_key_secret_arn : aws_secretsmanager_secret_version.generated["jwt-key"].arn
}

output "message_id_key_secret_arn" {
  description = "The key that names messages"
  value       = aws_secretsmanager_secret_version.generated["message-id-key"].arn
}

output "cache_id" {
  description = "The cache"
  value       = aws_elasticache_replication_group.cache.replication_group_id
}

output "cache_replicas" {
  description = "Its nodes beside the first"
  value       = var.cache_replicas
}

output "repository_uri" {
  description = "Where images of the consumer go"
  value       = aws_ecr_repository.images.repository_url
}

output "repository_arn" {
  description = "The same for policies"
  value       = aws_ecr_repository.images.arn
}

output "artifact_bucket" {
  description = "Where zipped functions go"
  value       = aws_s3_bucket.artifacts.id
}
