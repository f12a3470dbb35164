//! `kschat edge`, and the options that every edge has.

use std::{net::SocketAddr, process::ExitCode, str::FromStr, sync::Arc, time::Duration};

use clap::Args;
use kschat_adapters::{config::Environment, signal::stop_requested};

use super::{address, fail, functions, positive_time, say};
use crate::{
    edge::{Edge, MAX_RULES, Rule, Settings, routes::Selection, template},
    functions::Remote,
    loopback::Origin,
    server::Server,
    stack::Options,
};

/// What a control frame may hold, in bytes.
///
/// Source: RFC 6455, section 5.5.
const MIN_FRAME: usize = 125;

/// How the edge behaves. Without options, as the managed one does.
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
    /// Where a frame names its route, such as $request.body.action. [default: as in --routes]
    #[arg(long, value_name = "EXPRESSION", value_parser = Selection::parse)]
    route_selection: Option<Selection>,
    /// Close a socket on which nothing was said for so long, with 1001.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = positive_time)]
    idle: Duration,
    /// Close a socket at that age, with 1001.
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = positive_time)]
    lifetime: Duration,
    /// Let the clocks of --idle and --lifetime run so many times faster.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = scale)]
    time_scale: f64,
    /// How long a function may take.
    #[arg(long, value_name = "TIME", default_value = "29s", value_parser = positive_time)]
    integration_timeout: Duration,
    /// Bytes of a frame; beyond, close with 1009.
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_frame, value_parser = frame_size)]
    max_frame: usize,
    /// Bytes of a message or a push; beyond, close with 1009 or answer 413.
    #[arg(long, value_name = "BYTES", default_value_t = Settings::default().max_message, value_parser = size)]
    max_message: usize,
    /// Invocations under way at once.
    #[arg(long, value_name = "N", default_value_t = Settings::default().concurrency, value_parser = size)]
    concurrency: usize,
    /// Handle the frames of a connection one after the other. The managed edge does not.
    #[arg(long)]
    in_order: bool,
    /// Refuse /STAGE/ with its slash at the end.
    #[arg(long)]
    strict_path: bool,
    /// Let a ping keep a socket from being idle.
    #[arg(long)]
    ping_resets_idle: bool,
    /// Code with which a socket is closed that is idle or too old.
    #[arg(long, value_name = "CODE", default_value_t = 1001, value_parser = close_code)]
    timeout_close_code: u16,
    /// Do not agree to permessage-deflate.
    #[arg(long)]
    no_compression: bool,
    /// New connections a second; more are answered 429. An AWS account has 500. [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connect_rate: Option<u32>,
    /// Calls of the connections API a second; more are answered 429. An AWS account has 10000. [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    post_rate: Option<u32>,
    /// A page that may connect, by its origin, such as https://app.example; more than once for more. `null` is what sandboxed
    /// pages and files send, `*` lets every page in, as the managed edge does. Pages of this machine may connect anyway.
    #[arg(long = "allow-origin", value_name = "ORIGIN", value_parser = Origin::from_str)]
    origins: Vec<Origin>,
    /// Something that goes wrong on purpose, such as `post=410 share=10%`; more than once for more. Rules can be
    /// changed later at /_edge.
    #[arg(long = "fault", value_name = "RULE")]
    faults: Vec<Rule>,
}

/// Run only the socket edge, in front of functions of any project.
///
/// A local stand-in for a WebSocket API of Amazon API Gateway: handshakes, routes, limits, close codes, the
/// connections API, and faults on demand. What it does is shown at /_edge.
#[derive(Args)]
pub(super) struct EdgeCommand {
    /// Where functions run, such as http://127.0.0.1:9000 for `cargo lambda watch`, or whatever else has
    /// Lambda's Invoke API there, over plain http.
    #[arg(long, value_name = "URL")]
    functions: String,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value_t = Options::default().listen, value_parser = address)]
    listen: SocketAddr,
    #[command(flatten)]
    edge: EdgeArgs,
}

impl EdgeArgs {
    pub(super) fn settings(self, env: &mut Environment) -> Option<Settings> {
        let mut routes = match self.routes.as_deref().map(template::read) {
            None => Settings::default().routes,
            Some(Ok(read)) => {
                for warning in read.warnings {
                    tracing::warn!("--routes: {warning}");
                }
                read.routes
            }
            Some(Err(problem)) => {
                env.problem("--routes", problem);
                return None;
            }
        };
        if self.faults.len() > MAX_RULES {
            env.problem("--fault", format!("at most {MAX_RULES} rules"));
            return None;
        }
        if let Some(selection) = self.route_selection {
            routes.selection = selection;
        }
        Some(Settings {
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
            compression: !self.no_compression,
            connect_rate: self.connect_rate,
            post_rate: self.post_rate,
            origins: self.origins.into_iter().collect(),
            faults: self.faults,
        })
    }
}

/// What an edge needs that has nothing else in its process.
pub(super) struct Alone {
    listen: SocketAddr,
    functions: String,
    settings: Settings,
}

impl EdgeCommand {
    pub(super) fn options(self, env: &mut Environment) -> Option<Alone> {
        let functions = functions(env, Some(self.functions))?;
        Some(Alone { listen: self.listen, functions: functions?, settings: self.edge.settings(env)? })
    }
}

/// Runs the edge until it is told to stop.
pub(super) async fn serve(Alone { listen, functions, settings }: Alone) -> ExitCode {
    let stage = settings.stage.clone();
    let routes = settings.routes.table.keys().cloned().collect::<Vec<_>>().join(", ");
    let edge = Edge::new(settings, Arc::new(Remote::new(&functions)));
    let server = match Server::start(listen, edge.routes()).await {
        Ok(server) => server,
        Err(error) => return fail(&format!("can't listen on {listen}: {error}; choose another with --listen"), 1),
    };
    if !listen.ip().is_loopback() {
        tracing::warn!("the connections API takes pushes from everybody who reaches {listen}");
    }
    let address = server.reachable();
    say(&format!(
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
    server.end();
    ExitCode::SUCCESS
}

fn stage(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match text {
        "_edge" => Err("is where the view of the edge is: choose another".to_owned()),
        _ if is_name => Ok(text.to_owned()),
        _ => Err("must be letters, digits, `-` or `_`".to_owned()),
    }
}

/// Others stand for what is never sent, or are nobody's yet.
///
/// Source: RFC 6455, section 7.4.
fn close_code(text: &str) -> Result<u16, &'static str> {
    let can_be_sent = |code: &u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    text.parse().ok().filter(can_be_sent).ok_or("must be 1000 to 1003, 1007 to 1014, or 3000 to 4999")
}

/// Control frames must pass, too.
fn frame_size(text: &str) -> Result<usize, &'static str> {
    size(text).ok().filter(|size| *size >= MIN_FRAME).ok_or("must be a whole number from 125 to 67108864")
}

fn scale(text: &str) -> Result<f64, &'static str> {
    let scale = text.parse::<f64>().ok().filter(|scale| (1.0..=1e6).contains(scale));
    scale.ok_or("must be a number from 1 to 1000000, such as 60")
}

fn size(text: &str) -> Result<usize, &'static str> {
    let size = text.parse::<usize>().ok().filter(|size| (1..=64 * 1024 * 1024).contains(size));
    size.ok_or("must be a whole number from 1 to 67108864")
}
