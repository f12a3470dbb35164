//! A WebSocket client of kschat for tools and tests.
//!
//! | topic | entry point |
//! |---|---|
//! | how a client asks for a connection | [`ConnectRequest`] |
//! | an open connection | [`Connection`] |
//! | what a client sends | [`ClientFrame`] |
//! | what a client receives | [`ServerFrame`] |
//! | which messages a client has received in order | [`AckCursor`] |
//!
//! Only [`Connection`] does I/O. A test that needs raw access to its socket uses the other types on a socket of its own.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kschat_client::{AckCursor, ClientFrame, ConnectRequest, Connection, Received, ServerFrame};
//!
//! # async fn receive(tls: Arc<rustls::ClientConfig>) -> Result<(), Box<dyn std::error::Error>> {
//! let request = ConnectRequest::v2("ws://127.0.0.1:3000/dev", "a token");
//! let mut connection = Connection::open(&request, tls).await?;
//! let mut cursor = AckCursor::default();
//! loop {
//!     match connection.next().await? {
//!         Received::Frame(ServerFrame::Messages(messages)) => {
//!             if !cursor.follows(&messages) {
//!                 connection.send(&ClientFrame::Ack(cursor.redelivery_request())).await?;
//!             } else if cursor.advance(&messages)
//!                 && let Some(ack) = cursor.ack()
//!             {
//!                 connection.send(&ClientFrame::Ack(ack)).await?;
//!             }
//!         }
//!         Received::Frame(_) | Received::Ignored => {}
//!         Received::Ping => connection.answer_ping().await?,
//!     }
//! }
//! # }
//! ```

mod codec;
mod connection;
mod cursor;
mod frame;
mod request;

pub use connection::{ANSWER_TIMEOUT, Connection, ConnectionEnded, OpenError, Received};
pub use cursor::AckCursor;
pub use frame::{Ack, ClientFrame, Messages, ReceivedMessage, SendReply, SendRequest, ServerFrame};
pub use request::ConnectRequest;
