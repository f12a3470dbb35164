variable "name" {
  description = "The deployment, such as kschat-dev. Everything is named after it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{1,18}[a-z0-9])$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and dashes."
  }
}

variable "data_suffix" {
  description = "Added to the names of broker, cache, secrets, bucket and repository, where others of these names were left behind. Changing it replaces them all."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|-[a-z0-9]{1,4})$", var.data_suffix))
    error_message = "data_suffix: a dash and 1 to 4 lower-case letters and digits, such as -b, or \"\"."
  }
}

variable "vpc_id" {
  description = "The VPC of everything"
  type        = string
  nullable    = false
}

variable "vpc_cidr" {
  description = "Addresses of the VPC; functions and consumer may call the broker and the cache there"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}/[0-9]{1,2})$", var.vpc_cidr))
    error_message = "vpc_cidr: an IPv4 network such as 10.20.0.0/16."
  }
}

variable "subnet_ids" {
  description = "Private subnets in two or three zones; a single broker takes the first"
  type        = list(string)
  nullable    = false
}

variable "broker_deployment" {
  description = "One broker, or a cluster over the zones. Changing it replaces the broker and leaves what is queued behind."
  type        = string
  default     = "SINGLE_INSTANCE"
  nullable    = false

  validation {
    condition     = contains(["SINGLE_INSTANCE", "CLUSTER_MULTI_AZ"], var.broker_deployment)
    error_message = "broker_deployment: SINGLE_INSTANCE or CLUSTER_MULTI_AZ."
  }
}

variable "broker_instance_type" {
  description = "Size of a broker; it bounds users, as each has a queue, and functions, as each holds a connection"
  type        = string
  default     = "mq.m7g.medium"
  nullable    = false

  validation {
    condition     = contains(["mq.m7g.medium", "mq.m7g.large", "mq.m7g.xlarge", "mq.m7g.4xlarge", "mq.m7g.8xlarge"], var.broker_instance_type)
    error_message = "broker_instance_type: mq.m7g.medium, mq.m7g.large, mq.m7g.xlarge, mq.m7g.4xlarge or mq.m7g.8xlarge."
  }
}

variable "broker_version" {
  description = "RabbitMQ. 3.13 mirrors classic queues in a cluster; from 4 on only quorum queues are replicated."
  type        = string
  default     = "3.13"
  nullable    = false

  validation {
    condition     = contains(["3.13", "4.2", "4.3"], var.broker_version)
    error_message = "broker_version: 3.13, 4.2 or 4.3."
  }
}

variable "broker_maintenance_day" {
  description = "Day of the weekly maintenance, in which a single broker may be away for up to two hours"
  type        = string
  default     = "SUNDAY"
  nullable    = false

  validation {
    condition     = contains(["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"], var.broker_maintenance_day)
    error_message = "broker_maintenance_day: MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY or SUNDAY."
  }
}

variable "broker_maintenance_time" {
  description = "When the maintenance of the broker begins, UTC"
  type        = string
  default     = "03:00"
  nullable    = false

  validation {
    condition     = can(regex("^(([01][0-9]|2[0-3]):[0-5][0-9])$", var.broker_maintenance_time))
    error_message = "broker_maintenance_time: a time such as 03:00."
  }
}

variable "cache_node_type" {
  description = "Size of a Valkey node"
  type        = string
  default     = "cache.t4g.micro"
  nullable    = false

  validation {
    condition     = can(regex("^(cache\\.[a-z0-9]+\\.[a-z0-9]+)$", var.cache_node_type))
    error_message = "cache_node_type: a node type such as cache.t4g.micro."
  }
}

variable "cache_replicas" {
  description = "Valkey nodes that stand by; with one or more of them a dead node is replaced within a minute or so"
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.cache_replicas >= 0 && var.cache_replicas <= 5 && floor(var.cache_replicas) == var.cache_replicas
    error_message = "cache_replicas: a whole number from 0 to 5."
  }

  validation {
    condition     = var.broker_deployment != "CLUSTER_MULTI_AZ" || var.cache_replicas > 0
    error_message = "cache_replicas: a cluster of brokers needs a cache with a standby: set it to 1 or more."
  }
}

variable "cache_snapshot_days" {
  description = "Days for which a daily snapshot is kept; 0 takes none, as the registry repairs itself"
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.cache_snapshot_days >= 0 && var.cache_snapshot_days <= 35 && floor(var.cache_snapshot_days) == var.cache_snapshot_days
    error_message = "cache_snapshot_days: a whole number from 0 to 35."
  }
}

variable "cache_maintenance" {
  description = "Weekly maintenance of the cache, UTC"
  type        = string
  default     = "sun:05:00-sun:06:00"
  nullable    = false

  validation {
    condition     = can(regex("^((mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9]-(mon|tue|wed|thu|fri|sat|sun):[0-2][0-9]:[0-5][0-9])$", var.cache_maintenance))
    error_message = "cache_maintenance: a span such as sun:05:00-sun:06:00."
  }
}

variable "jwt_key_secret_arn" {
  description = "A secret of yours whose whole text is the key for tokens - the HS secret, a PEM or a JWKS. Without one a random HS256 secret is made, for your service to sign with."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)$", var.jwt_key_secret_arn))
    error_message = "jwt_key_secret_arn: the full ARN of a secret, or \"\"."
  }
}

variable "functions_call_out" {
  description = "Whether functions may call anybody over TLS, to fetch an issuer's keys; their subnets need a NAT gateway"
  type        = bool
  default     = false
  nullable    = false
}

variable "console_group_id" {
  description = "A security group whose members may call the broker's console, such as that of a host with the SSM agent"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|sg-[0-9a-f]{8,17})$", var.console_group_id))
    error_message = "console_group_id: the id of a security group, or \"\"."
  }
}

variable "console_cidr" {
  description = "A private network that may call the broker's console, such as that of a VPN"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|(10|172|192)\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}/[0-9]{1,2})$", var.console_cidr))
    error_message = "console_cidr: a private IPv4 network such as 10.9.0.0/24, or \"\"."
  }
}

variable "trace_collector_port" {
  description = "Port of a collector of traces inside the VPC; 0 opens none"
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.trace_collector_port >= 0 && var.trace_collector_port <= 65535 && floor(var.trace_collector_port) == var.trace_collector_port
    error_message = "trace_collector_port: a whole number from 0 to 65535."
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

variable "broker_users_zip" {
  description = "Path of the zipped function that makes the users of the broker"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(.+\\.zip)$", var.broker_users_zip))
    error_message = "broker_users_zip: the path of a zip."
  }
}
