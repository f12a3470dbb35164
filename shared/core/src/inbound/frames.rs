//! Handles any frame of an identified caller.

use std::time::Instant;

use kschat_protocol::{
    ClientFrame, ErrorCode, ErrorFrame, FrameError, SendFrame, SendReply, ServerFrame, frame_error_reply,
};

use super::{
    ack,
    caller::{self, Caller},
    request, send,
};
use crate::metrics;

/// The dependencies of [`handle_frame`].
#[derive(Clone)]
pub struct Deps {
    /// For every frame.
    pub caller: caller::Deps,
    /// For messages.
    pub send: send::Deps,
    /// For acks and all other requests.
    pub request: request::Deps,
}

/// A decoded frame, or the reason why it is unreadable.
pub type DecodedFrame = Result<ClientFrame, FrameError>;

/// Handles a frame; returns the reply, if there is one.
pub async fn handle_frame(deps: &Deps, caller: &Caller, frame: DecodedFrame) -> Option<ServerFrame> {
    match frame {
        Ok(ClientFrame::Send(frame)) => Some(handle_send(deps, caller, frame).await.into()),
        Ok(ClientFrame::Ack(ack)) => {
            let acked = ack::acknowledge(&deps.request, caller, ack).await;
            metrics::ACKS.add_code(acked.as_ref().map_or_else(request::RequestError::code, |()| ErrorCode::Ok));
            acked.err().map(|error| error.into_reply(|code| ErrorFrame::new(code).into()))
        }
        Ok(ClientFrame::Request(request)) => {
            let (code, reply) = request::handle_request(&deps.request, caller, &request).await;
            metrics::REQUESTS.add_code(code);
            reply
        }
        Err(error) => Some(reply_to_malformed(caller, error)),
    }
}

async fn handle_send(deps: &Deps, caller: &Caller, frame: SendFrame) -> SendReply {
    let began = Instant::now();
    let reply = send::send(&deps.send, caller, frame).await;
    metrics::SENDS.add_code(reply.code());
    if reply.code() == ErrorCode::Ok {
        metrics::ACCEPT.record_duration(began.elapsed());
    }
    reply
}

/// A client that exceeds its rate with unreadable frames learns only of the rate limit.
fn reply_to_malformed(caller: &Caller, error: FrameError) -> ServerFrame {
    if let Err(refused) = caller.check_limits() {
        metrics::REQUESTS.add_code(refused.code());
        return refused.reply().into();
    }
    tracing::info!(er = error.code.number(), "frame refused");
    count_malformed(&error);
    frame_error_reply(error)
}

fn count_malformed(error: &FrameError) {
    let answered = if error.is_send { &metrics::SENDS } else { &metrics::REQUESTS };
    answered.add_code(error.code);
}

/// The reply to a frame whose caller could not be identified.
#[must_use]
pub fn unavailable_reply(frame: DecodedFrame, code: ErrorCode) -> ServerFrame {
    match frame {
        Ok(ClientFrame::Send(frame)) => {
            metrics::SENDS.add_code(code);
            SendReply::failed(code, frame).into()
        }
        Ok(ClientFrame::Ack(_)) => {
            metrics::ACKS.add_code(code);
            ErrorFrame::new(code).into()
        }
        Ok(ClientFrame::Request(request)) => {
            metrics::REQUESTS.add_code(code);
            request::failure_reply(&request, code)
        }
        Err(error) => {
            count_malformed(&error);
            frame_error_reply(error)
        }
    }
}
