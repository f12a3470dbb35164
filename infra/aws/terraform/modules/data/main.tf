data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  region     = data.aws_region.current.id
  account    = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  dns_suffix = data.aws_partition.current.dns_suffix

  boundary   = var.permissions_boundary == "" ? null : var.permissions_boundary
  is_cluster = var.broker_deployment == "CLUSTER_MULTI_AZ"

  # A broker before version 4 has the largest limits, and takes no others.
  sets_limits = var.broker_version != "3.13"
  limits      = jsondecode(file("${path.module}/../../../broker-limits.json"))["maximum"][var.broker_instance_type]
}

resource "aws_kms_key" "key" {
  description             = "Secrets, settings, logs and images of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # The account's IAM policies decide; without this nobody could ever change the key again.
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "Logs"
        Effect    = "Allow"
        Principal = { Service = "logs.${local.region}.${local.dns_suffix}" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = {
          ArnLike = {
            "kms:EncryptionContext:aws:logs:arn" = "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:*${var.name}*"
          }
        }
      },
      {
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
  })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "key" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.key.key_id
}

# Who may call whom. Replies need no rule.
locals {
  tcp = {
    broker = { port = 5671, description = "the broker" }
    cache  = { port = 6379, description = "the cache" }
  }
  collector = var.trace_collector_port == 0 ? {} : {
    collector = { port = var.trace_collector_port, description = "the collector of traces" }
  }
  inside_vpc = merge(local.tcp, local.collector)
}

resource "aws_security_group" "functions" {
  name_prefix = "${var.name}-functions-"
  description = "The functions. Nobody calls them here; they call the broker and the cache."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-functions" }

  dynamic "egress" {
    for_each = local.inside_vpc
    content {
      protocol    = "tcp"
      from_port   = egress.value.port
      to_port     = egress.value.port
      cidr_blocks = [var.vpc_cidr]
      description = egress.value.description
    }
  }

  dynamic "egress" {
    for_each = var.functions_call_out ? [443] : []
    content {
      protocol    = "tcp"
      from_port   = 443
      to_port     = 443
      cidr_blocks = ["0.0.0.0/0"]
      description = "the issuer of tokens"
    }
  }
}

resource "aws_security_group" "consumer" {
  name_prefix = "${var.name}-consumer-"
  description = "The consumer. Nobody calls it; it calls the broker, the cache and the connections API."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-consumer" }

  dynamic "egress" {
    for_each = local.inside_vpc
    content {
      protocol    = "tcp"
      from_port   = egress.value.port
      to_port     = egress.value.port
      cidr_blocks = [var.vpc_cidr]
      description = egress.value.description
    }
  }

  egress {
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = ["0.0.0.0/0"]
    description = "AWS"
  }
}

resource "aws_security_group" "broker" {
  name_prefix = "${var.name}-broker-"
  description = "The broker. Functions and consumer call it; it calls nobody."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-broker" }
  egress      = []

  ingress {
    protocol        = "tcp"
    from_port       = 5671
    to_port         = 5671
    security_groups = [aws_security_group.functions.id]
    description     = "functions"
  }

  ingress {
    protocol        = "tcp"
    from_port       = 5671
    to_port         = 5671
    security_groups = [aws_security_group.consumer.id]
    description     = "consumer"
  }

  ingress {
    protocol        = "tcp"
    from_port       = 443
    to_port         = 443
    security_groups = [aws_security_group.broker_users.id]
    description     = "its management, for what makes its users"
  }

  dynamic "ingress" {
    for_each = var.console_group_id == "" ? [] : [var.console_group_id]
    content {
      protocol        = "tcp"
      from_port       = 443
      to_port         = 443
      security_groups = [ingress.value]
      description     = "its console, for people"
    }
  }

  dynamic "ingress" {
    for_each = var.console_cidr == "" ? [] : [var.console_cidr]
    content {
      protocol    = "tcp"
      from_port   = 443
      to_port     = 443
      cidr_blocks = [ingress.value]
      description = "its console, for people"
    }
  }
}

resource "aws_security_group" "broker_users" {
  name_prefix = "${var.name}-broker-users-"
  description = "What makes the users of the broker. Nobody calls it here; it calls the management of the broker."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-broker-users" }

  egress {
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = [var.vpc_cidr]
    description = "the management of the broker"
  }
}

resource "aws_security_group" "cache" {
  name_prefix = "${var.name}-cache-"
  description = "The cache. Functions and consumer call it; it calls nobody."
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-cache" }
  egress      = []

  ingress {
    protocol        = "tcp"
    from_port       = 6379
    to_port         = 6379
    security_groups = [aws_security_group.functions.id]
    description     = "functions"
  }

  ingress {
    protocol        = "tcp"
    from_port       = 6379
    to_port         = 6379
    security_groups = [aws_security_group.consumer.id]
    description     = "consumer"
  }
}

# From version 4 on a broker starts with limits that are far too low for a queue a user, and ten consumers a channel, which
# the consumer would exceed at once. A cluster is raised no further than its own limits are known to go.
# Source: https://docs.aws.amazon.com/amazon-mq/latest/developer-guide/configure-resource-limits.html
resource "aws_mq_configuration" "broker_limits" {
  count          = local.sets_limits ? 1 : 0
  name           = "${var.name}-broker-limits${var.data_suffix}"
  description    = "Limits of the broker of ${var.name}"
  engine_type    = "RabbitMQ"
  engine_version = var.broker_version
  data = join("", concat(
    local.is_cluster ? [] : [
      "connection_max = ${local.limits.connections}\n",
      "channel_max_per_node = ${local.limits.channels}\n",
      "cluster_queue_limit = ${local.limits.queues}\n",
    ],
    ["consumer_max_per_channel = ${local.limits.consumers_per_channel}\n"],
  ))
}

resource "aws_mq_broker" "broker" {
  broker_name         = "${var.name}-broker${var.data_suffix}"
  engine_type         = "RabbitMQ"
  engine_version      = var.broker_version
  host_instance_type  = var.broker_instance_type
  deployment_mode     = var.broker_deployment
  subnet_ids          = local.is_cluster ? var.subnet_ids : [var.subnet_ids[0]]
  security_groups     = [aws_security_group.broker.id]
  publicly_accessible = false

  # RabbitMQ on Amazon MQ from 3.13 on can't be created without.
  auto_minor_version_upgrade = true

  dynamic "configuration" {
    for_each = aws_mq_configuration.broker_limits
    content {
      id       = configuration.value.id
      revision = configuration.value.latest_revision
    }
  }

  maintenance_window_start_time {
    day_of_week = var.broker_maintenance_day
    time_of_day = var.broker_maintenance_time
    time_zone   = "UTC"
  }

  logs {
    general = true
  }

  user {
    username = local.current["broker"].username
    password = local.current["broker"].password
  }

  lifecycle {
    prevent_destroy = true
    ignore_changes  = [user] # a new password is set in the console
  }
}

resource "aws_elasticache_subnet_group" "cache" {
  name        = "${var.name}${var.data_suffix}"
  description = "Private subnets of ${var.name}"
  subnet_ids  = var.subnet_ids
}

resource "aws_elasticache_parameter_group" "cache" {
  name        = "${var.name}${var.data_suffix}"
  family      = "valkey8"
  description = "A full registry refuses new sessions rather than forgetting old ones"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
}

resource "aws_elasticache_replication_group" "cache" {
  replication_group_id       = "${var.name}${var.data_suffix}"
  description                = "Who is connected to ${var.name}"
  engine                     = "valkey"
  engine_version             = "8.0"
  node_type                  = var.cache_node_type
  num_cache_clusters         = 1 + var.cache_replicas
  automatic_failover_enabled = var.cache_replicas > 0
  multi_az_enabled           = var.cache_replicas > 0
  parameter_group_name       = aws_elasticache_parameter_group.cache.name
  subnet_group_name          = aws_elasticache_subnet_group.cache.name
  security_group_ids         = [aws_security_group.cache.id]
  port                       = 6379
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  kms_key_id                 = aws_kms_key.key.arn
  auth_token                 = local.current["cache"].token
  auto_minor_version_upgrade = true
  maintenance_window         = var.cache_maintenance
  snapshot_retention_limit   = var.cache_snapshot_days

  lifecycle {
    prevent_destroy = true
    ignore_changes  = [auth_token] # a new token is set by `modify-replication-group`, which can keep the old one for a while
  }
}

resource "aws_ecr_repository" "images" {
  name                 = "${var.name}${var.data_suffix}/consumer"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = aws_kms_key.key.arn
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_ecr_lifecycle_policy" "images" {
  repository = aws_ecr_repository.images.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep what a rollback could need"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 30 }
      action       = { type = "expire" }
    }]
  })
}

# The zipped functions.
resource "aws_s3_bucket" "artifacts" {
  bucket = "${var.name}-artifacts${var.data_suffix}-${local.account}-${local.region}"

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.key.arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "artifacts" {
  bucket                  = aws_s3_bucket.artifacts.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "artifacts" {
  bucket     = aws_s3_bucket.artifacts.id
  depends_on = [aws_s3_bucket_public_access_block.artifacts]
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyByTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.artifacts.arn, "${aws_s3_bucket.artifacts.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
