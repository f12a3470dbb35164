//! What is pushed to a user's version-2 connections without lying in any queue.

use serde::Serialize;

use crate::{Er, reply::Frame};

/// `RESPCTRL`: what a client shall do about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Why, as a code.
    pub er: Er,
    /// What to do.
    pub order: Order,
    /// In how many milliseconds.
    pub after: u64,
    /// Why, for a person.
    pub why: &'static str,
}

/// What a `RESPCTRL` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Connect anew.
    Reconnect,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct ControlFields {
    op: Order,
    after: u64,
    why: &'static str,
}

impl Control {
    /// The token has ended: a fresh one, by a request or a new connection, lets the client go on.
    pub const EXPIRED: Self =
        Self { er: Er::TokenExpired, order: Order::Reconnect, after: 0, why: "the token has expired" };

    /// The frame as text.
    #[must_use]
    pub fn to_text(self) -> String {
        let Self { er, order: op, after, why } = self;
        Frame::bare("RESPCTRL", er, ControlFields { op, after, why })
    }
}
