//! The Lambda functions behind the WebSocket routes `$connect`, `$disconnect`, `send` and `$default`.
//!
//! Each handler is `async fn handle(&Deps, Event) -> Response` and can't fail at the edge: every error becomes a
//! response. The local stack calls the very same handlers. The binaries only connect them to Lambda.

pub mod connect;
pub mod dependencies;
pub mod disconnect;
mod event;
mod input;
pub mod runtime;
pub mod send;
mod send_deps;
mod socketio;
mod wiring;

pub use aws_lambda_events::apigw::{ApiGatewayProxyResponse as Response, ApiGatewayWebsocketProxyRequest as Event};
