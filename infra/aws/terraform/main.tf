# A deployment: a profile of ../profiles with single parameters changed.

locals {
  # The profile's parameters have the names of the templates, such as RateLimit; here that is rate_limit.
  profile = {
    for module, parameters in jsondecode(file("${path.module}/../profiles/${var.profile}.json")) :
    module => { for name, value in parameters : lower(replace(name, "/([a-z0-9])([A-Z])/", "$${1}_$2")) => value }
  }
  network       = merge(local.profile.network, var.network)
  data          = merge(local.profile.data, var.data)
  app           = merge(local.profile.app, var.app)
  observability = merge(local.profile.observability, var.observability)

  # What the modules below are given of these.
  settable = {
    for module in keys(local.profile) :
    module => sort(distinct(flatten(regexall("local\\.${module}\\.(\\w+)", file("${path.module}/main.tf")))))
  }

  vpc  = var.vpc == null ? one(module.network) : var.vpc
  zips = { for name, file in jsondecode(file("${var.zips}/zips.json")) : name => "${var.zips}/${file}" }
}

module "network" {
  source = "./modules/network"
  count  = var.vpc == null ? 1 : 0

  name = var.name

  cidr                 = try(local.network.cidr, null)
  zones                = try(local.network.zones, null)
  zone_names           = try(compact(split(",", local.network.zone_names)), null)
  egress               = try(local.network.egress, null)
  flow_logs            = try(local.network.flow_logs, null)
  flow_log_days        = try(local.network.flow_log_days, null)
  permissions_boundary = var.permissions_boundary
  role_path            = var.role_path
}

module "data" {
  source = "./modules/data"

  name             = var.name
  vpc_id           = local.vpc.vpc_id
  vpc_cidr         = local.vpc.vpc_cidr
  subnet_ids       = local.vpc.private_subnet_ids
  broker_users_zip = local.zips["broker-users"]

  data_suffix             = try(local.data.data_suffix, null)
  broker_deployment       = try(local.data.broker_deployment, null)
  broker_instance_type    = try(local.data.broker_instance_type, null)
  broker_version          = try(local.data.broker_version, null)
  broker_maintenance_day  = try(local.data.broker_maintenance_day, null)
  broker_maintenance_time = try(local.data.broker_maintenance_time, null)
  cache_node_type         = try(local.data.cache_node_type, null)
  cache_replicas          = try(local.data.cache_replicas, null)
  cache_snapshot_days     = try(local.data.cache_snapshot_days, null)
  cache_maintenance       = try(local.data.cache_maintenance, null)
  jwt_key_secret_arn      = try(local.data.jwt_key_secret_arn, null)
  functions_call_out      = try(local.data.functions_call_out, null)
  console_group_id        = try(local.data.console_group_id, null)
  console_cidr            = try(local.data.console_cidr, null)
  trace_collector_port    = try(local.data.trace_collector_port, null)
  permissions_boundary    = var.permissions_boundary
  role_path               = var.role_path
}

module "app" {
  source = "./modules/app"
  count  = var.image_uri == null ? 0 : 1

  name                          = var.name
  architecture                  = var.architecture
  function_subnet_ids           = local.vpc.private_subnet_ids
  consumer_subnet_ids           = local.vpc.consumer_subnet_ids
  consumer_public_ip            = local.vpc.consumer_public_ip
  functions_group_id            = module.data.functions_group_id
  consumer_group_id             = module.data.consumer_group_id
  key_arn                       = module.data.key_arn
  functions_amqp_url_secret_arn = module.data.functions_amqp_url_secret_arn
  amqp_url_secret_arn           = module.data.amqp_url_secret_arn
  redis_url_secret_arn          = module.data.redis_url_secret_arn
  jwt_key_secret_arn            = module.data.jwt_key_secret_arn
  message_id_key_secret_arn     = module.data.message_id_key_secret_arn
  broker_name                   = module.data.broker_name
  broker_size                   = module.data.broker_size
  broker_limits                 = module.data.broker_limits
  repository_arn                = module.data.repository_arn
  artifact_bucket               = module.data.artifact_bucket
  connect_zip                   = local.zips["connect"]
  disconnect_zip                = local.zips["disconnect"]
  send_zip                      = local.zips["send"]
  image_uri                     = var.image_uri

  stage                = try(local.app.stage, null)
  jwt_key_kind         = try(local.app.jwt_key_kind, null)
  jwt_jwks_url         = try(local.app.jwt_jwks_url, null)
  jwt_algorithm        = try(local.app.jwt_algorithm, null)
  jwt_user_claim       = try(local.app.jwt_user_claim, null)
  jwt_rooms_claim      = try(local.app.jwt_rooms_claim, null)
  jwt_audience         = try(local.app.jwt_audience, null)
  jwt_issuer           = try(local.app.jwt_issuer, null)
  jwt_leeway           = try(local.app.jwt_leeway, null)
  jwt_require_exp      = try(local.app.jwt_require_exp, null)
  partitions           = try(local.app.partitions, null)
  queue_type           = try(local.app.queue_type, null)
  message_retention    = try(local.app.message_retention, null)
  queue_max_messages   = try(local.app.queue_max_messages, null)
  queue_max_bytes      = try(local.app.queue_max_bytes, null)
  sender_share         = try(local.app.sender_share, null)
  send_rate            = try(local.app.send_rate, null)
  send_burst           = try(local.app.send_burst, null)
  ack_rate             = try(local.app.ack_rate, null)
  ack_burst            = try(local.app.ack_burst, null)
  request_rate         = try(local.app.request_rate, null)
  request_burst        = try(local.app.request_burst, null)
  connect_rate         = try(local.app.connect_rate, null)
  connect_burst        = try(local.app.connect_burst, null)
  new_recipients       = try(local.app.new_recipients, null)
  handshake_token      = try(local.app.handshake_token, null)
  unknown_recipient    = try(local.app.unknown_recipient, null)
  rno_window           = try(local.app.rno_window, null)
  receipts             = try(local.app.receipts, null)
  prefetch             = try(local.app.prefetch, null)
  function_memory      = try(local.app.function_memory, null)
  reserve_concurrency  = try(local.app.reserve_concurrency, null)
  log_level            = try(local.app.log_level, null)
  log_days             = try(local.app.log_days, null)
  metrics              = try(local.app.metrics, null)
  trace_collector      = try(local.app.trace_collector, null)
  rate_limit           = try(local.app.rate_limit, null)
  burst_limit          = try(local.app.burst_limit, null)
  access_logs          = try(local.app.access_logs, null)
  account_logging      = try(local.app.account_logging, null)
  domain_name          = try(local.app.domain_name, null)
  certificate_arn      = try(local.app.certificate_arn, null)
  hosted_zone_id       = try(local.app.hosted_zone_id, null)
  consumer_cpu         = try(local.app.consumer_cpu, null)
  consumer_memory      = try(local.app.consumer_memory, null)
  consumer_min_tasks   = try(local.app.consumer_min_tasks, null)
  consumer_max_tasks   = try(local.app.consumer_max_tasks, null)
  backlog_per_task     = try(local.app.backlog_per_task, null)
  container_insights   = try(local.app.container_insights, null)
  permissions_boundary = var.permissions_boundary
  role_path            = var.role_path
}

module "observability" {
  source = "./modules/observability"
  count  = var.image_uri == null ? 0 : 1

  name           = var.name
  key_arn        = module.data.key_arn
  api_id         = module.app[0].api_id
  stage_name     = module.app[0].stage_name
  cluster_name   = module.app[0].cluster_name
  service_name   = module.app[0].service_name
  broker_name    = module.data.broker_name
  broker_size    = module.data.broker_size
  broker_limits  = module.data.broker_limits
  cache_id       = module.data.cache_id
  cache_replicas = module.data.cache_replicas

  alarm_email     = try(local.observability.alarm_email, null)
  alarm_topic_arn = try(local.observability.alarm_topic_arn, null)
  ready_messages  = try(local.observability.ready_messages, null)
  sends_failing   = try(local.observability.sends_failing, null)
}
