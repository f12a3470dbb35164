variable "name" {
  description = "The deployment, such as kschat-dev. Everything is named after it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{1,18}[a-z0-9])$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and dashes."
  }
}

variable "key_arn" {
  description = "The key that encrypts alarms on their way"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+)$", var.key_arn))
    error_message = "key_arn: the ARN of a KMS key."
  }
}

variable "alarm_email" {
  description = "Who is told of alarms by the topic that is made; \"\" leaves subscribing to you"
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|[^@\\s]+@[^@\\s]+\\.[^@\\s]+)$", var.alarm_email))
    error_message = "alarm_email: an address, or \"\"."
  }
}

variable "alarm_topic_arn" {
  description = "A topic of yours for alarms; \"\" makes one. If it is encrypted, its key has to let cloudwatch.amazonaws.com use it."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(|arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256})$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn: the ARN of a topic, or \"\"."
  }
}

variable "api_id" {
  description = "The WebSocket API"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9]{1,32})$", var.api_id))
    error_message = "api_id: the id of an API."
  }
}

variable "stage_name" {
  description = "Its stage"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-zA-Z0-9_-]{1,128})$", var.stage_name))
    error_message = "stage_name: the name of a stage."
  }
}

variable "cluster_name" {
  description = "The cluster of the consumer"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-zA-Z0-9_-]{1,255})$", var.cluster_name))
    error_message = "cluster_name: the name of a cluster."
  }
}

variable "service_name" {
  description = "The service of the consumer"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-zA-Z0-9_-]{1,255})$", var.service_name))
    error_message = "service_name: the name of a service."
  }
}

variable "broker_name" {
  description = "The broker"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([A-Za-z0-9_-]{1,50})$", var.broker_name))
    error_message = "broker_name: the name of a broker."
  }
}

variable "broker_size" {
  description = "The broker's instance type"
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

variable "cache_id" {
  description = "The cache"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{0,39})$", var.cache_id))
    error_message = "cache_id: the id of a replication group."
  }
}

variable "cache_replicas" {
  description = "Its nodes beside the first"
  type        = number
  nullable    = false

  validation {
    condition     = var.cache_replicas >= 0 && var.cache_replicas <= 5 && floor(var.cache_replicas) == var.cache_replicas
    error_message = "cache_replicas: a whole number from 0 to 5."
  }
}

variable "ready_messages" {
  description = "Messages that wait, for users who are away as well, above which somebody should look"
  type        = number
  default     = 100000
  nullable    = false

  validation {
    condition     = var.ready_messages >= 1 && var.ready_messages <= 1000000000 && floor(var.ready_messages) == var.ready_messages
    error_message = "ready_messages: a whole number from 1 to 1000000000."
  }
}

variable "sends_failing" {
  description = "Errors of a function within five minutes above which somebody should look"
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.sends_failing >= 1 && var.sends_failing <= 1000000 && floor(var.sends_failing) == var.sends_failing
    error_message = "sends_failing: a whole number from 1 to 1000000."
  }
}
