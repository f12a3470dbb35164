output "vpc_id" {
  description = "The VPC"
  value       = aws_vpc.vpc.id
}

output "vpc_cidr" {
  description = "Its addresses"
  value       = var.cidr
}

output "private_subnet_ids" {
  description = "For the functions, the broker and the cache"
  value       = values(aws_subnet.private)[*].id
}

output "consumer_subnet_ids" {
  description = "For the consumer"
  value       = values(local.has_nat ? aws_subnet.private : aws_subnet.public)[*].id
}

output "consumer_public_ip" {
  description = "Whether a task of the consumer needs a public address to call out"
  value       = local.has_nat ? "DISABLED" : "ENABLED"
}
