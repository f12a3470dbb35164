//! The wire protocol of kschat between clients, functions and the consumer.
//!
//! Pure by rule: no I/O, no clock, no runtime. A frame comes in as text and goes out as a [`ServerFrame`], which a
//! [`dialect`] encodes. Every domain concept has a type that only holds valid values.
//!
//! | topic | entry point |
//! |---|---|
//! | parse a client's frame | [`ClientFrame::parse`] |
//! | the reply to a send | [`SendReply`] |
//! | other requests of a client | [`Request`] |
//! | the frame that carries messages to a receiver | [`ReceiverFrame`] |
//! | the body of a queued message | [`Message`] |
//! | error codes | [`ErrorCode`] |
//! | any frame for a client | [`ServerFrame`] |
//! | raw and Socket.IO encoding | [`dialect`] |
//! | limits | [`limits`] |

mod client_frame;
mod code;
pub mod dialect;
mod event;
mod handshake;
mod id;
pub mod limits;
mod message;
mod position;
mod reply;
mod request;
mod server;
mod server_frame;
mod text;
mod trace;

pub use client_frame::{AckFrame, ClientFrame, FieldError, FrameError, Recipient, SendFrame};
pub use code::ErrorCode;
pub use event::{Control, ControlCommand, EphemeralEvent};
pub use handshake::{BEARER_PREFIX, Handshake, ProtocolVersion, SUBPROTOCOL};
pub use id::{ConnectionId, InvalidId, JsonId, MessageId, RoomId, UserId};
pub use message::{Message, MessageError, MessageIdentity, Status};
pub use position::{InvalidPosition, Position};
pub use reply::{AuthReply, PeerPresence, PeerStatus, PresenceReply, RoomOp, RoomReply, StatusReply};
pub use request::Request;
pub use server::{ErrorFrame, PONG, ReceiverFrame, SendReply, frame_error_reply};
pub use server_frame::ServerFrame;
pub use trace::{MAX_TRACESTATE_BYTES, TraceContext};
