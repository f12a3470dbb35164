//! The Lambda functions behind the WebSocket routes `$connect`, `$disconnect`, `send` and `$default`.
//!
//! Each handler is `async fn handle(&Deps, Event) -> Response` and can't fail at the edge: whatever goes wrong
//! becomes a response. The local stack calls the very same handlers. The binaries only wire them up.

pub mod connect;
pub mod disconnect;
mod event;
pub mod runtime;
pub mod send;
mod socketio;
mod wiring;

pub use aws_lambda_events::apigw::{ApiGatewayProxyResponse as Response, ApiGatewayWebsocketProxyRequest as Event};
