//! The cost of a frame for its user.

use kschat_protocol::{ClientFrame, FrameError, Recipient, Request};

use crate::{
    limits::Limits,
    ports::{Charge, MessageCharge, RateClass},
};

/// This many users in one request count as one more request: the registry looks up each of them.
const USERS_PER_REQUEST_COST_UNIT: usize = 10;

/// What a frame costs its user under these limits. An unreadable frame costs as much as a request.
#[must_use]
pub fn charge_for<'a>(limits: &Limits, frame: Option<&'a Result<ClientFrame, FrameError>>) -> Charge<'a> {
    let request = |cost| Charge { class: RateClass::Requests, cost, rate: limits.requests, message: None };
    match frame {
        Some(Ok(ClientFrame::Send(send))) => {
            let (new_recipients, share) = (limits.new_recipients, limits.share);
            let to = match &send.recipient {
                Recipient::User(user) => Some(user),
                Recipient::Room(_) => None,
            };
            let message = MessageCharge { to, bytes: json_length(&send.msg), new_recipients, share };
            Charge { class: RateClass::Sends, cost: 1, rate: limits.sends, message: Some(message) }
        }
        Some(Ok(ClientFrame::Ack(_))) => Charge { class: RateClass::Acks, cost: 1, rate: limits.acks, message: None },
        // The stored positions of a pair take as much memory as a queue.
        Some(Ok(ClientFrame::Request(asked @ Request::Read { peer, .. }))) => {
            let (new_recipients, share) = (limits.new_recipients, None);
            let message = MessageCharge { to: Some(peer), bytes: 0, new_recipients, share };
            Charge { message: Some(message), ..request(request_cost(asked)) }
        }
        Some(Ok(ClientFrame::Request(asked))) => request(request_cost(asked)),
        Some(Err(_)) | None => request(1),
    }
}

/// The length of a text as JSON, in bytes. A control character takes six: a charge by characters would let a user put
/// six times as much into a queue.
fn json_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..32 => 6,
        _ => 1,
    };
    2 + text.bytes().map(length).sum::<usize>()
}

/// How many requests this one counts as.
fn request_cost(request: &Request) -> u32 {
    let asked = match request {
        Request::Status { peers } => peers.len(),
        Request::Presence { users } => users.len(),
        _ => 0,
    };
    u32::try_from(asked / USERS_PER_REQUEST_COST_UNIT).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_length_matches_serde_json() {
        for text in ["", "hello", "\"\\/\n\r\t\u{8}\u{c}", "\u{1}\u{1f}\u{7f}", "\u{fc}\u{2028}\u{1f600}"] {
            assert_eq!(json_length(text), serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }
}
