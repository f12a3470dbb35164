variable "name" {
  description = "The deployment, such as kschat-dev. Everything is named after it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z][a-z0-9-]{1,18}[a-z0-9])$", var.name))
    error_message = "name: 3 to 20 lower-case letters, digits and dashes."
  }
}

variable "cidr" {
  description = "Addresses of the VPC. Choose others if it is to be peered."
  type        = string
  default     = "10.20.0.0/16"
  nullable    = false

  validation {
    condition     = can(regex("^((10|172|192)\\.[0-9]{1,3}\\.[0-9]{1,3}\\.0/(16|17|18))$", var.cidr))
    error_message = "cidr: a private IPv4 network of /16 to /18."
  }
}

variable "zones" {
  description = "Availability zones. A cluster of brokers wants three."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = contains([2, 3], var.zones)
    error_message = "zones: 2 or 3."
  }
}

variable "zone_names" {
  description = "The zones by name, as many as zones; none takes the region's first. Not every zone has every size of broker."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = contains([0, var.zones], length(var.zone_names))
    error_message = "zone_names: as many names as zones says, or none."
  }
}

variable "egress" {
  description = "How the consumer, the only part that calls out, does so. nat-per-zone survives the loss of a zone, nat is one gateway, public-ip has none and gives each task a public address that nobody can connect to."
  type        = string
  default     = "public-ip"
  nullable    = false

  validation {
    condition     = contains(["public-ip", "nat", "nat-per-zone"], var.egress)
    error_message = "egress: public-ip, nat or nat-per-zone."
  }
}

variable "flow_logs" {
  description = "Whether accepted and rejected connections of the VPC are logged"
  type        = bool
  default     = false
  nullable    = false
}

variable "flow_log_days" {
  description = "Days for which flow logs are kept"
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([7, 14, 30, 60, 90, 180, 365], var.flow_log_days)
    error_message = "flow_log_days: 7, 14, 30, 60, 90, 180 or 365."
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
