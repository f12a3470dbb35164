# Secrets Manager makes the first value of a secret. People put later ones there; Terraform never changes them back.

locals {
  generated = merge(
    {
      "broker"           = { description = "The administrator of the broker, who makes the other users", length = 40, username = "kschat" }
      "broker-functions" = { description = "The user of the broker that functions have", length = 40, username = "kschat-functions" }
      "broker-consumer"  = { description = "The user of the broker that the consumer has", length = 40, username = "kschat-consumer" }
      "cache"            = { description = "The token of the cache", length = 64, username = null }
      "message-id-key"   = { description = "The key that names messages; nobody but the send function needs it", length = 64, username = null }
    },
    var.jwt_key_secret_arn != "" ? {} : {
      "jwt-key" = { description = "The HS256 secret that tokens are signed with; your own service needs it, too", length = 64, username = null }
    },
  )

  # What they hold now.
  current = {
    for key, version in data.aws_secretsmanager_secret_version.current : key => jsondecode(version.secret_string)
  }

  broker_host = trimprefix(aws_mq_broker.broker.instances[0].endpoints[0], "amqps://")
  cache       = aws_elasticache_replication_group.cache

  # The programs read one URL each. An ECS task can only be given a whole secret, so the URL is one.
  urls = {
    "amqp-url-functions" = {
      description = "The broker with user and password, as functions read it"
      url         = "amqps://${local.current["broker-functions"].username}:${local.current["broker-functions"].password}@${local.broker_host}/%2f"
    }
    "amqp-url" = {
      description = "The broker with user and password, as the consumer reads it"
      url         = "amqps://${local.current["broker-consumer"].username}:${local.current["broker-consumer"].password}@${local.broker_host}/%2f"
    }
    "redis-url" = {
      description = "The cache with its token, as the programs read it"
      url         = "rediss://:${local.current["cache"].token}@${local.cache.primary_endpoint_address}:${local.cache.port}/0"
    }
  }
}

# Punctuation is left out: passwords stand in URLs, and a broker forbids commas, colons and equals signs.
data "aws_secretsmanager_random_password" "first" {
  for_each            = local.generated
  password_length     = each.value.length
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret" "generated" {
  for_each    = local.generated
  name        = "${var.name}${var.data_suffix}/${each.key}"
  description = each.value.description
  kms_key_id  = aws_kms_key.key.arn

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret_version" "generated" {
  for_each  = local.generated
  secret_id = aws_secretsmanager_secret.generated[each.key].id
  secret_string = (
    each.key == "cache" ? jsonencode({ token = data.aws_secretsmanager_random_password.first[each.key].random_password }) :
    each.value.username == null ? data.aws_secretsmanager_random_password.first[each.key].random_password :
    jsonencode({ username = each.value.username, password = data.aws_secretsmanager_random_password.first[each.key].random_password })
  )

  # Terraform tracks the first version only. AWS may delete a version without a label, and Terraform would then create a new
  # random value as the current one. The label `terraform` stays on the first version when AWSCURRENT and AWSPREVIOUS move on.
  # Source: AWS Secrets Manager API reference, UpdateSecretVersionStage
  version_stages = ["AWSCURRENT", "terraform"]

  lifecycle {
    ignore_changes = [secret_string, version_stages]
  }
}

data "aws_secretsmanager_secret_version" "current" {
  for_each  = toset(["broker", "broker-functions", "broker-consumer", "cache"])
  secret_id = aws_secretsmanager_secret_version.generated[each.key].secret_id
}

resource "aws_secretsmanager_secret" "url" {
  for_each    = toset(["amqp-url-functions", "amqp-url", "redis-url"])
  name        = "${var.name}${var.data_suffix}/${each.key}"
  description = local.urls[each.key].description
  kms_key_id  = aws_kms_key.key.arn

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_secretsmanager_secret_version" "url" {
  for_each      = aws_secretsmanager_secret.url
  secret_id     = each.value.id
  secret_string = local.urls[each.key].url
}
