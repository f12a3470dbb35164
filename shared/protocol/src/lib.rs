//! The wire protocol of kschat: what clients, functions and the consumer say to one another.
//!
//! Pure by rule: no I/O, no clock, no runtime. A frame comes in as text and goes out as text;
//! everything with a meaning of its own has a type that can only hold a valid value.
//!
//! | to find | look in |
//! |---|---|
//! | where a client's frame is parsed | [`ClientFrame::parse`] |
//! | the reply to a send | [`SendReply`] |
//! | what else a client can ask for | [`Request`] |
//! | the frame that carries messages to a receiver | [`ReceiverFrame`] |
//! | the body of a queued message | [`Message`] |
//! | every error code | [`Er`] |
//! | what a Socket.IO client says, and hears | [`dialect`] |
//! | every limit | [`limits`] |

mod client;
mod code;
pub mod dialect;
mod handshake;
mod id;
pub mod limits;
mod message;
mod notice;
mod position;
mod reply;
mod request;
mod server;
mod trace;

pub use client::{AckFrame, ClientFrame, FieldError, FrameError, Recipient, SendFrame};
pub use code::Er;
pub use handshake::{BEARER_PREFIX, Handshake, SUBPROTOCOL, Version};
pub use id::{ConnectionId, InvalidId, JsonId, MessageId, RoomId, UserId};
pub use message::{Identity, Message, MessageError, Status};
pub use notice::{Control, Notice, Order};
pub use position::{InvalidPosition, Position};
pub use reply::{AuthReply, PeerPresence, PeerStatus, PresenceReply, RoomOp, RoomReply, StatusReply};
pub use request::Request;
pub use server::{ErrorFrame, PONG, ReceiverFrame, SendReply, refusal};
pub use trace::{MAX_TRACESTATE, TraceContext};
