//! `kschat edge`, and the options that every edge shares.

use std::{net::SocketAddr, process::ExitCode, str::FromStr, sync::Arc, time::Duration};

use clap::Args;
use kschat_adapters::{
    config::{Environment, Reported},
    signal::stop_requested,
};
use kschat_edge::{
    Edge, MAX_RULES, Rule, Settings,
    functions::Remote,
    loopback::Origin,
    routes::{Routes, Selection},
    server::Server,
    template,
};

use super::{address, fail, functions, positive_time, print_text};
use crate::stack::Options;

/// The minimum of `--max-frame`, in bytes: a control frame may have a payload of that size.
///
/// Source: RFC 6455, section 5.5.
const MIN_FRAME_BYTES: usize = 125;

/// Behaviour of the edge. The defaults are those of the managed one.
#[derive(Args)]
#[command(next_help_heading = "Edge")]
pub(super) struct EdgeArgs {
    /// Name of the stage: the WebSocket is at /STAGE.
    #[arg(long, default_value_t = Settings::default().stage, value_parser = stage)]
    stage: String,
    /// Routes: a list in YAML or JSON, or a SAM or CloudFormation template (FILE#NAME where it has several APIs).
    /// [default: kschat's own]
    #[arg(long, value_name = "FILE")]
    routes: Option<String>,
    /// Expression that finds a frame's route, such as $request.body.action. [default: as in --routes]
    #[arg(long, value_name = "EXPRESSION", value_parser = Selection::parse)]
    route_selection: Option<Selection>,
    /// Close a socket that has been idle for this long, with 1001.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = positive_time)]
    idle: Duration,
    /// Close a socket at this age, with 1001.
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = positive_time)]
    lifetime: Duration,
    /// Run the clocks of --idle and --lifetime this many times faster.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = scale)]
    time_scale: f64,
    /// Timeout of a function.
    #[arg(long, value_name = "TIME", default_value = "29s", value_parser = positive_time)]
    integration_timeout: Duration,
    /// Maximum bytes of a frame; larger ones close the socket with 1009.
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_frame, value_parser = frame_size)]
    max_frame: usize,
    /// Maximum bytes of a message or push; beyond, close with 1009 or answer 413.
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_message, value_parser = size)]
    max_message: usize,
    /// Maximum concurrent invocations.
    #[arg(long, value_name = "N", default_value_t = Settings::default().concurrency, value_parser = size)]
    concurrency: usize,
    /// Handle a connection's frames sequentially. The managed edge does not.
    #[arg(long)]
    in_order: bool,
    /// Reject /STAGE/ with a trailing slash.
    #[arg(long)]
    strict_path: bool,
    /// Let a ping reset the idle timeout.
    #[arg(long)]
    ping_resets_idle: bool,
    /// Close code for a socket that is idle or too old.
    #[arg(long, value_name = "CODE", default_value_t = 1001, value_parser = close_code)]
    timeout_close_code: u16,
    /// Accept a status code such as 200.0 from a function.
    #[arg(long)]
    float_status: bool,
    /// Do not negotiate permessage-deflate.
    #[arg(long)]
    no_compression: bool,
    /// New connections per second; more are answered 429. An AWS account has 500. [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: Option<u32>,
    /// Calls of the connections API per second; more are answered 429. An AWS account has 10000. [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    post_rate: Option<u32>,
    /// Origin of a page that may connect, such as https://app.example; repeatable. `null` is sent by sandboxed pages
    /// and files; `*` allows every page, as the managed edge does. Pages of this machine may always connect.
    #[arg(long = "allow-origin", value_name = "ORIGIN", value_parser = Origin::from_str)]
    origins: Vec<Origin>,
    /// Fault to inject, such as `post=410 share=10%`; repeatable. Rules can be changed later at /_edge.
    #[arg(long = "fault", value_name = "RULE")]
    faults: Vec<Rule>,
}

/// Run only the socket edge, in front of functions of any project.
///
/// A local stand-in for a WebSocket API of Amazon API Gateway: handshakes, routes, limits, close codes, the connections
/// API, and faults on demand. /_edge shows its activity.
#[derive(Args)]
pub(super) struct EdgeCommand {
    /// Address of the functions, such as http://127.0.0.1:9000 for `cargo lambda watch`, or any other server of
    /// Lambda's Invoke API, over plain http.
    #[arg(long, value_name = "URL")]
    functions: String,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value_t = Options::default().listen, value_parser = address)]
    listen: SocketAddr,
    #[command(flatten)]
    edge: EdgeArgs,
}

impl EdgeArgs {
    pub(super) fn settings(self, env: &mut Environment) -> Result<Settings, Reported> {
        if self.faults.len() > MAX_RULES {
            env.problem("--fault", format_args!("at most {MAX_RULES} rules"));
        }
        let routes = read_routes(env, self.routes.as_deref(), self.route_selection)?;
        Ok(Settings {
            stage: self.stage,
            routes,
            idle: self.idle,
            lifetime: self.lifetime,
            time_scale: self.time_scale,
            integration_timeout: self.integration_timeout,
            max_frame: self.max_frame,
            max_message: self.max_message,
            concurrency: self.concurrency,
            in_order: self.in_order,
            strict_path: self.strict_path,
            ping_resets_idle: self.ping_resets_idle,
            timeout_close_code: self.timeout_close_code,
            float_status: self.float_status,
            compression: !self.no_compression,
            connect_rate: self.connect_rate,
            post_rate: self.post_rate,
            origins: self.origins.into_iter().collect(),
            faults: self.faults,
        })
    }
}

/// The routes of a file, or kschat's own.
fn read_routes(env: &mut Environment, file: Option<&str>, selection: Option<Selection>) -> Result<Routes, Reported> {
    let mut routes = match file.map(template::read) {
        None => Settings::default().routes,
        Some(Ok(read)) => {
            for warning in read.warnings {
                tracing::warn!("--routes: {warning}");
            }
            read.routes
        }
        Some(Err(problem)) => return Err(env.problem("--routes", problem)),
    };
    if let Some(selection) = selection {
        routes.selection = selection;
    }
    Ok(routes)
}

/// Settings of an edge that runs alone in its process.
pub(super) struct StandaloneEdge {
    listen: SocketAddr,
    functions: String,
    settings: Settings,
}

impl EdgeCommand {
    pub(super) fn options(self, env: &mut Environment) -> Result<StandaloneEdge, Reported> {
        let functions = functions(env, self.functions);
        let settings = self.edge.settings(env);
        Ok(StandaloneEdge { listen: self.listen, functions: functions?, settings: settings? })
    }
}

/// Runs the edge until a shutdown signal.
pub(super) async fn serve(StandaloneEdge { listen, functions, settings }: StandaloneEdge) -> ExitCode {
    let stage = settings.stage.clone();
    let routes = settings.routes.table.keys().cloned().collect::<Vec<_>>().join(", ");
    let edge = Edge::new(settings, Arc::new(Remote::new(&functions)));
    let server = match Server::start(listen, edge.routes()).await {
        Ok(server) => server,
        Err(error) => return fail(&format!("can't listen on {listen}: {error}; choose another with --listen"), 1),
    };
    if !listen.ip().is_loopback() {
        tracing::warn!("the connections API accepts pushes from every host that can reach {listen}");
    }
    let address = server.reachable();
    print_text(&format!(
        "the edge is running\n\n\
         \x20 websocket   ws://{address}/{stage}\n\
         \x20 callback    http://{address}/{stage}/@connections/{{id}}\n\
         \x20 functions   {functions}\n\
         \x20 routes      {routes}\n\
         \x20 view        http://{address}/_edge\n\n\
         Ctrl-C stops.\n"
    ));
    if let Err(error) = stop_requested().await {
        return fail(&error, 1);
    }
    server.close();
    edge.close_all().await;
    server.stop();
    ExitCode::SUCCESS
}

fn stage(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match text {
        "_edge" => Err("is reserved for the edge view: choose another stage name".to_owned()),
        _ if is_name => Ok(text.to_owned()),
        _ => Err("must be letters, digits, `-` or `_`".to_owned()),
    }
}

/// Other codes are reserved, or never sent.
///
/// Source: RFC 6455, section 7.4.
fn close_code(text: &str) -> Result<u16, &'static str> {
    let can_be_sent = |code: &u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    text.parse().ok().filter(can_be_sent).ok_or("must be 1000 to 1003, 1007 to 1014, or 3000 to 4999")
}

/// Control frames must fit, too.
fn frame_size(text: &str) -> Result<usize, &'static str> {
    size(text).ok().filter(|size| *size >= MIN_FRAME_BYTES).ok_or("must be a whole number from 125 to 67108864")
}

fn scale(text: &str) -> Result<f64, &'static str> {
    let scale = text.parse::<f64>().ok().filter(|scale| (1.0..=1e6).contains(scale));
    scale.ok_or("must be a number from 1 to 1000000, such as 60")
}

fn size(text: &str) -> Result<usize, &'static str> {
    let size = text.parse::<usize>().ok().filter(|size| (1..=64 * 1024 * 1024).contains(size));
    size.ok_or("must be a whole number from 1 to 67108864")
}
