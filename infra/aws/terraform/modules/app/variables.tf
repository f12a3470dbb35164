variable "name" {
  description = "The deployment, such as kschat-dev. Everything is named after it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{1,18}[a-z0-9])$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and dashes."
  }
}

variable "stage" {
  description = "Last part of the WebSocket URL"
  type        = string
  default     = "prod"
  nullable    = false

  validation {
    condition     = can(regex("^([a-zA-Z0-9_-]{1,32})$", var.stage))
    error_message = "stage: 1 to 32 letters, digits, dashes and underscores."
  }
}

variable "architecture" {
  description = "Processors that functions and consumer were built for"
  type        = string
  default     = "arm64"
  nullable    = false

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "architecture: arm64 or x86_64."
  }
}

variable "function_subnet_ids" {
  description = "Private subnets; functions call nothing but the broker and the cache"
  type        = list(string)
  nullable    = false
}

variable "consumer_subnet_ids" {
  description = "Subnets from which the connections API can be called - with a NAT gateway, or public"
  type        = list(string)
  nullable    = false
}

variable "consumer_public_ip" {
  description = "Whether a task gets a public address, for subnets without a NAT gateway"
  type        = string
  default     = "DISABLED"
  nullable    = false

  validation {
    condition     = contains(["ENABLED", "DISABLED"], var.consumer_public_ip)
    error_message = "consumer_public_ip: ENABLED or DISABLED."
  }
}

variable "functions_group_id" {
  description = "The security group of the functions"
  type        = string
  nullable    = false
}

variable "consumer_group_id" {
  description = "The security group of the consumer"
  type        = string
  nullable    = false
}

variable "key_arn" {
  description = "The key that encrypts secrets, settings and logs"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+)$", var.key_arn))
    error_message = "key_arn: the ARN of a KMS key."
  }
}

variable "functions_amqp_url_secret_arn" {
  description = "Secret whose text is the URL of the broker, with the user that functions have"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.functions_amqp_url_secret_arn))
    error_message = "functions_amqp_url_secret_arn: the full ARN of a secret."
  }
}

variable "amqp_url_secret_arn" {
  description = "Secret whose text is the URL of the broker, with the user that the consumer has"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.amqp_url_secret_arn))
    error_message = "amqp_url_secret_arn: the full ARN of a secret."
  }
}

variable "redis_url_secret_arn" {
  description = "Secret whose text is the URL of the cache"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.redis_url_secret_arn))
    error_message = "redis_url_secret_arn: the full ARN of a secret."
  }
}

variable "jwt_key_secret_arn" {
  description = "Secret whose text is the key for tokens"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.jwt_key_secret_arn))
    error_message = "jwt_key_secret_arn: the full ARN of a secret."
  }
}

variable "message_id_key_secret_arn" {
  description = "Secret whose text is the key that names messages"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.message_id_key_secret_arn))
    error_message = "message_id_key_secret_arn: the full ARN of a secret."
  }
}

variable "broker_name" {
  description = "The broker's name in CloudWatch, for its backlog"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([A-Za-z0-9_-]{1,50})$", var.broker_name))
    error_message = "broker_name: the name of a broker."
  }
}

variable "broker_size" {
  description = "The broker's instance type, which bounds how many functions may run at once"
  type        = string
  nullable    = false

  validation {
    condition     = contains(["mq.m7g.medium", "mq.m7g.large", "mq.m7g.xlarge", "mq.m7g.4xlarge", "mq.m7g.8xlarge"], var.broker_size)
    error_message = "broker_size: mq.m7g.medium, mq.m7g.large, mq.m7g.xlarge, mq.m7g.4xlarge or mq.m7g.8xlarge."
  }
}

variable "broker_limits" {
  description = "Whether the broker has the largest limits that its size may have, or those that a version from 4 on starts with"
  type        = string
  default     = "maximum"
  nullable    = false

  validation {
    condition     = contains(["maximum", "default"], var.broker_limits)
    error_message = "broker_limits: maximum or default."
  }
}

variable "repository_arn" {
  description = "The repository of the consumer's image"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:ecr:[a-z0-9-]+:[0-9]{12}:repository/.+)$", var.repository_arn))
    error_message = "repository_arn: the ARN of a repository."
  }
}

variable "artifact_bucket" {
  description = "Bucket of the zipped functions"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])$", var.artifact_bucket))
    error_message = "artifact_bucket: the name of a bucket."
  }
}

variable "connect_zip" {
  description = "Path of the zipped function connect. Its name has to change with its content."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(.+\\.zip)$", var.connect_zip))
    error_message = "connect_zip: the path of a zip."
  }
}

variable "disconnect_zip" {
  description = "Path of the zipped function disconnect. Its name has to change with its content."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(.+\\.zip)$", var.disconnect_zip))
    error_message = "disconnect_zip: the path of a zip."
  }
}

variable "send_zip" {
  description = "Path of the zipped function send. Its name has to change with its content."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(.+\\.zip)$", var.send_zip))
    error_message = "send_zip: the path of a zip."
  }
}

variable "image_uri" {
  description = "The consumer's image, by its digest"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(.+@sha256:[0-9a-f]{64})$", var.image_uri))
    error_message = "image_uri: an image with its digest, repository@sha256:…."
  }
}

variable "jwt_key_kind" {
  description = "Where the key for tokens is - in the secret of jwt_key_secret_arn as an HS secret, a public key in PEM or a JWKS as JSON; or, with jwks-url, at jwt_jwks_url"
  type        = string
  default     = "secret"
  nullable    = false

  validation {
    condition     = contains(["secret", "pem", "jwks", "jwks-url"], var.jwt_key_kind)
    error_message = "jwt_key_kind: secret, pem, jwks or jwks-url."
  }
}

variable "jwt_jwks_url" {
  description = "Where the issuer publishes its keys. They are fetched by functions, which need a way out for that - a NAT gateway, and functions_call_out of the data module."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|https://[^\\s]+)$", var.jwt_jwks_url))
    error_message = "jwt_jwks_url: an https URL, or \"\"."
  }

  validation {
    condition     = var.jwt_key_kind != "jwks-url" || var.jwt_jwks_url != ""
    error_message = "jwt_jwks_url: set it to an https URL when jwt_key_kind is jwks-url."
  }
}

variable "jwt_algorithm" {
  description = "The one algorithm that tokens may be signed with"
  type        = string
  default     = "HS256"
  nullable    = false

  validation {
    condition     = contains(["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"], var.jwt_algorithm)
    error_message = "jwt_algorithm: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA."
  }

  validation {
    condition     = (var.jwt_key_kind == "secret") == startswith(var.jwt_algorithm, "HS")
    error_message = "jwt_algorithm: HS256, HS384 or HS512 with jwt_key_kind secret, and one of the others with a public key."
  }
}

variable "jwt_user_claim" {
  description = "Path of the claim that names the user, such as sub"
  type        = string
  default     = "data.id"
  nullable    = false

  validation {
    condition     = can(regex("^([A-Za-z0-9_:/.-]{1,128})$", var.jwt_user_claim))
    error_message = "jwt_user_claim: the name of a claim, or a path with dots."
  }
}

variable "jwt_rooms_claim" {
  description = "Path of the claim that lists the rooms which a user may join; \"\" lets everybody into every room"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|[A-Za-z0-9_:/.-]{1,128})$", var.jwt_rooms_claim))
    error_message = "jwt_rooms_claim: the name of a claim, or a path with dots, or \"\"."
  }
}

variable "jwt_audience" {
  description = "Audience that tokens must be for; \"\" checks none"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = length(var.jwt_audience) <= 256
    error_message = "jwt_audience: at most 256 characters."
  }
}

variable "jwt_issuer" {
  description = "Issuer that tokens must be from; \"\" checks none"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = length(var.jwt_issuer) <= 256
    error_message = "jwt_issuer: at most 256 characters."
  }
}

variable "jwt_leeway" {
  description = "Seconds that clocks may differ"
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.jwt_leeway >= 0 && var.jwt_leeway <= 300 && floor(var.jwt_leeway) == var.jwt_leeway
    error_message = "jwt_leeway: a whole number from 0 to 300."
  }
}

variable "jwt_require_exp" {
  description = "Whether tokens without an end are refused"
  type        = bool
  default     = true
  nullable    = false
}

variable "partitions" {
  description = "Into how many parts the users are cut. Never change it while anybody has messages waiting."
  type        = number
  default     = 16
  nullable    = false

  validation {
    condition     = var.partitions >= 1 && var.partitions <= 1024 && floor(var.partitions) == var.partitions
    error_message = "partitions: a whole number from 1 to 1024."
  }
}

variable "queue_type" {
  description = "How queues are kept. A cluster of RabbitMQ 3.13 mirrors classic ones; from 4 on only quorum queues have copies, which cost more memory. A queue that there is keeps its type, so choose before anybody connects."
  type        = string
  default     = "classic"
  nullable    = false

  validation {
    condition     = contains(["classic", "quorum"], var.queue_type)
    error_message = "queue_type: classic or quorum."
  }
}

variable "message_retention" {
  description = "Seconds for which a message waits for its receiver"
  type        = number
  default     = 1209600
  nullable    = false

  validation {
    condition     = var.message_retention >= 60 && var.message_retention <= 2073600 && floor(var.message_retention) == var.message_retention
    error_message = "message_retention: a whole number from 60 to 2073600."
  }
}

variable "queue_max_messages" {
  description = "Messages that wait for one user, at most"
  type        = number
  default     = 100000
  nullable    = false

  validation {
    condition     = var.queue_max_messages >= 1 && var.queue_max_messages <= 4294967295 && floor(var.queue_max_messages) == var.queue_max_messages
    error_message = "queue_max_messages: a whole number from 1 to 4294967295."
  }
}

variable "queue_max_bytes" {
  description = "Bytes of messages that wait for one user, at most"
  type        = number
  default     = 67108864
  nullable    = false

  validation {
    condition     = var.queue_max_bytes >= 1 && var.queue_max_bytes <= 1099511627776 && floor(var.queue_max_bytes) == var.queue_max_bytes
    error_message = "queue_max_bytes: a whole number from 1 to 1099511627776."
  }
}

variable "sender_share" {
  description = "Hundredths of a user's queue that may come from one sender, or off"
  type        = string
  default     = "25"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]?|100|off)$", var.sender_share))
    error_message = "sender_share: a whole number from 1 to 100, or off."
  }
}

variable "send_rate" {
  description = "Messages of one user a second, or off"
  type        = string
  default     = "50"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]{0,8}|off)$", var.send_rate))
    error_message = "send_rate: a whole number from 1, or off."
  }
}

variable "send_burst" {
  description = "Messages of one user at once"
  type        = number
  default     = 200
  nullable    = false

  validation {
    condition     = var.send_burst >= 1 && var.send_burst <= 1000000 && floor(var.send_burst) == var.send_burst
    error_message = "send_burst: a whole number from 1 to 1000000."
  }
}

variable "ack_rate" {
  description = "Acks of one user a second, or off"
  type        = string
  default     = "200"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]{0,8}|off)$", var.ack_rate))
    error_message = "ack_rate: a whole number from 1, or off."
  }
}

variable "ack_burst" {
  description = "Acks of one user at once"
  type        = number
  default     = 1000
  nullable    = false

  validation {
    condition     = var.ack_burst >= 1 && var.ack_burst <= 1000000 && floor(var.ack_burst) == var.ack_burst
    error_message = "ack_burst: a whole number from 1 to 1000000."
  }
}

variable "request_rate" {
  description = "Other requests of one user a second, or off"
  type        = string
  default     = "20"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]{0,8}|off)$", var.request_rate))
    error_message = "request_rate: a whole number from 1, or off."
  }
}

variable "request_burst" {
  description = "Other requests of one user at once"
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.request_burst >= 1 && var.request_burst <= 1000000 && floor(var.request_burst) == var.request_burst
    error_message = "request_burst: a whole number from 1 to 1000000."
  }
}

variable "connect_rate" {
  description = "Handshakes of one user a second, or off"
  type        = string
  default     = "2"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]{0,8}|off)$", var.connect_rate))
    error_message = "connect_rate: a whole number from 1, or off."
  }
}

variable "connect_burst" {
  description = "Handshakes of one user at once"
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.connect_burst >= 1 && var.connect_burst <= 1000000 && floor(var.connect_burst) == var.connect_burst
    error_message = "connect_burst: a whole number from 1 to 1000000."
  }
}

variable "new_recipients" {
  description = "Users an hour to whom a user writes for the first time, or off"
  type        = string
  default     = "100"
  nullable    = false

  validation {
    condition     = can(regex("^([1-9][0-9]{0,8}|off)$", var.new_recipients))
    error_message = "new_recipients: a whole number from 1, or off."
  }
}

variable "handshake_token" {
  description = "Whether Socket.IO clients must bring their token in the handshake, as all others must"
  type        = string
  default     = "optional"
  nullable    = false

  validation {
    condition     = contains(["required", "optional"], var.handshake_token)
    error_message = "handshake_token: required or optional."
  }
}

variable "unknown_recipient" {
  description = "Whether messages for somebody who has never connected are kept or refused"
  type        = string
  default     = "queue"
  nullable    = false

  validation {
    condition     = contains(["queue", "refuse"], var.unknown_recipient)
    error_message = "unknown_recipient: queue or refuse."
  }
}

variable "rno_window" {
  description = "Seconds for which a version-2 rno is remembered"
  type        = number
  default     = 86400
  nullable    = false

  validation {
    condition     = var.rno_window >= 1 && var.rno_window <= 2592000 && floor(var.rno_window) == var.rno_window
    error_message = "rno_window: a whole number from 1 to 2592000."
  }
}

variable "receipts" {
  description = "Whether senders are told which of their messages were delivered"
  type        = string
  default     = "on"
  nullable    = false

  validation {
    condition     = contains(["on", "off"], var.receipts)
    error_message = "receipts: on or off."
  }
}

variable "prefetch" {
  description = "Messages of one user that wait to be taken or acknowledged, at most"
  type        = number
  default     = 64
  nullable    = false

  validation {
    condition     = var.prefetch >= 1 && var.prefetch <= 65535 && floor(var.prefetch) == var.prefetch
    error_message = "prefetch: a whole number from 1 to 65535."
  }
}

variable "function_memory" {
  description = "Memory of each function in MB; the share of a processor grows with it"
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = var.function_memory >= 128 && var.function_memory <= 1769 && floor(var.function_memory) == var.function_memory
    error_message = "function_memory: a whole number from 128 to 1769."
  }
}

variable "reserve_concurrency" {
  description = "Whether functions are kept below the broker's connection limit. Only an account whose own limit is lower, as a new one's is, should say no."
  type        = bool
  default     = true
  nullable    = false
}

variable "log_level" {
  description = "What is logged"
  type        = string
  default     = "info"
  nullable    = false

  validation {
    condition     = contains(["error", "warn", "info", "debug"], var.log_level)
    error_message = "log_level: error, warn, info or debug."
  }
}

variable "log_days" {
  description = "Days for which logs are kept"
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 7, 14, 30, 60, 90, 180, 365, 731], var.log_days)
    error_message = "log_days: 1, 7, 14, 30, 60, 90, 180, 365 or 731."
  }
}

variable "metrics" {
  description = "Whether the programs write metrics of their own for CloudWatch, which bills each as a custom metric. Alarms of the observability module look at some."
  type        = bool
  default     = true
  nullable    = false
}

variable "trace_collector" {
  description = "An OpenTelemetry collector that gets traces by OTLP over HTTP; \"\" sends none. Give trace_collector_port of the data module its port."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|https?://[^\\s]+)$", var.trace_collector))
    error_message = "trace_collector: an http or https URL, or \"\"."
  }
}

variable "rate_limit" {
  description = "Frames and handshakes a second, over all clients"
  type        = number
  default     = 1000
  nullable    = false

  validation {
    condition     = var.rate_limit >= 1 && var.rate_limit <= 100000 && floor(var.rate_limit) == var.rate_limit
    error_message = "rate_limit: a whole number from 1 to 100000."
  }
}

variable "burst_limit" {
  description = "How many of them at once"
  type        = number
  default     = 500
  nullable    = false

  validation {
    condition     = var.burst_limit >= 1 && var.burst_limit <= 50000 && floor(var.burst_limit) == var.burst_limit
    error_message = "burst_limit: a whole number from 1 to 50000."
  }
}

variable "access_logs" {
  description = "Whether each request is logged. The account needs a role for it, once a region - account_logging gives it one."
  type        = bool
  default     = false
  nullable    = false
}

variable "account_logging" {
  description = "Whether this module gives API Gateway the role for access logs. It is one for the whole account in a region, so one module must own it. The role stays when the module goes, as the account still points at it."
  type        = bool
  default     = false
  nullable    = false
}

variable "domain_name" {
  description = "A name of yours for the WebSocket URL; \"\" leaves it at the one that AWS gives"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|([a-z0-9-]+\\.)+[a-z]{2,})$", var.domain_name))
    error_message = "domain_name: a domain name, or \"\"."
  }
}

variable "certificate_arn" {
  description = "Its certificate, in this region"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/.+)$", var.certificate_arn))
    error_message = "certificate_arn: the ARN of a certificate, or \"\"."
  }

  validation {
    condition     = var.domain_name == "" || var.certificate_arn != ""
    error_message = "certificate_arn: set it to the ARN of a certificate when domain_name is set."
  }
}

variable "hosted_zone_id" {
  description = "The Route 53 zone to enter it into; \"\" leaves that to you"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|Z[A-Z0-9]+)$", var.hosted_zone_id))
    error_message = "hosted_zone_id: the id of a hosted zone, or \"\"."
  }
}

variable "consumer_cpu" {
  description = "CPU units of a task; 1024 are one processor"
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.consumer_cpu)
    error_message = "consumer_cpu: 256, 512, 1024, 2048 or 4096."
  }
}

variable "consumer_memory" {
  description = "Memory of a task in MB; AWS allows only some beside each consumer_cpu"
  type        = number
  default     = 512
  nullable    = false

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192, 16384], var.consumer_memory)
    error_message = "consumer_memory: 512, 1024, 2048, 4096, 8192 or 16384."
  }

  validation {
    condition     = var.consumer_memory >= 2 * var.consumer_cpu && var.consumer_memory <= 8 * var.consumer_cpu
    error_message = "consumer_memory: 2 to 8 times consumer_cpu."
  }
}

variable "consumer_min_tasks" {
  description = "Tasks that run always"
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.consumer_min_tasks >= 1 && var.consumer_min_tasks <= 10 && floor(var.consumer_min_tasks) == var.consumer_min_tasks
    error_message = "consumer_min_tasks: a whole number from 1 to 10."
  }
}

variable "consumer_max_tasks" {
  description = "Tasks that run at most"
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.consumer_max_tasks >= 1 && var.consumer_max_tasks <= 10 && floor(var.consumer_max_tasks) == var.consumer_max_tasks
    error_message = "consumer_max_tasks: a whole number from 1 to 10."
  }

  validation {
    condition     = var.consumer_max_tasks >= var.consumer_min_tasks
    error_message = "consumer_max_tasks: not less than consumer_min_tasks."
  }
}

variable "backlog_per_task" {
  description = "Messages pushed by a task and not yet acknowledged, above which another task is started"
  type        = number
  default     = 5000
  nullable    = false

  validation {
    condition     = var.backlog_per_task >= 100 && var.backlog_per_task <= 1000000 && floor(var.backlog_per_task) == var.backlog_per_task
    error_message = "backlog_per_task: a whole number from 100 to 1000000."
  }
}

variable "container_insights" {
  description = "Whether the cluster's figures are kept; scaling by backlog divides by one of them"
  type        = string
  default     = "enabled"
  nullable    = false

  validation {
    condition     = contains(["enabled", "disabled"], var.container_insights)
    error_message = "container_insights: enabled or disabled."
  }
}

variable "permissions_boundary" {
  description = "A policy that bounds what each role may do; \"\" bounds none"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/.+)$", var.permissions_boundary))
    error_message = "permissions_boundary: the ARN of a managed policy, or \"\"."
  }
}

variable "role_path" {
  description = "Where the roles lie among those of the account"
  type        = string
  default     = "/"
  nullable    = false

  validation {
    condition     = can(regex("^(/|/[A-Za-z0-9+=,.@_/-]{1,100}/)$", var.role_path))
    error_message = "role_path: a path that begins and ends with a slash."
  }
}
