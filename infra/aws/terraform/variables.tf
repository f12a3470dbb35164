variable "name" {
  description = "The deployment, such as kschat-dev. Everything is named after it."
  type        = string
}

variable "profile" {
  description = "The file of ../profiles whose parameters the deployment has: dev or prod"
  type        = string
  default     = "dev"

  validation {
    condition     = fileexists("${path.module}/../profiles/${var.profile}.json")
    error_message = "profile: dev or prod."
  }
}

variable "zips" {
  description = "The folder that `kschat-aws build` fills with the zipped functions: target/deploy of the clone"
  type        = string

  validation {
    condition     = fileexists("${var.zips}/zips.json")
    error_message = "zips: a folder with the file zips.json. `kschat-aws build` writes it to target/deploy."
  }
}

variable "image_uri" {
  description = "The consumer's image by its digest, repository@sha256:…; null makes network and data only, and with them the repository"
  type        = string
  default     = null
}

variable "architecture" {
  description = "Processors that functions and consumer were built for: arm64 or x86_64"
  type        = string
  default     = "arm64"
}

variable "vpc" {
  description = "Your own VPC; null makes one. Only the consumer needs outbound access: by a NAT gateway, or by consumer_public_ip = \"ENABLED\"."
  type = object({
    vpc_id              = string
    vpc_cidr            = string
    private_subnet_ids  = list(string)
    consumer_subnet_ids = list(string)
    consumer_public_ip  = optional(string, "DISABLED")
  })
  default = null
}

variable "network" {
  description = "Variables of modules/network that differ from the profile, such as { NAME = \"value\" }"
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.network), local.settable.network)) == 0
    error_message = "network: ${join(", ", setsubtract(keys(var.network), local.settable.network))} can't be set. Settable are ${join(", ", local.settable.network)}."
  }
}

variable "data" {
  description = "Variables of modules/data that differ from the profile, such as { NAME = \"value\" }"
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.data), local.settable.data)) == 0
    error_message = "data: ${join(", ", setsubtract(keys(var.data), local.settable.data))} can't be set. Settable are ${join(", ", local.settable.data)}."
  }
}

variable "app" {
  description = "Variables of modules/app that differ from the profile, such as { NAME = \"value\" }"
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.app), local.settable.app)) == 0
    error_message = "app: ${join(", ", setsubtract(keys(var.app), local.settable.app))} can't be set. Settable are ${join(", ", local.settable.app)}."
  }
}

variable "observability" {
  description = "Variables of modules/observability that differ from the profile, such as { NAME = \"value\" }"
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.observability), local.settable.observability)) == 0
    error_message = "observability: ${join(", ", setsubtract(keys(var.observability), local.settable.observability))} can't be set. Settable are ${join(", ", local.settable.observability)}."
  }
}

variable "permissions_boundary" {
  description = "A policy that bounds what each role may do; \"\" bounds none"
  type        = string
  default     = ""
  nullable    = false
}

variable "role_path" {
  description = "Where the roles lie among those of the account"
  type        = string
  default     = "/"
  nullable    = false
}
