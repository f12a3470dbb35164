//! What each connection gets of one batch.

use std::collections::HashMap;

use kschat_protocol::{ConnectionId, ReceiverFrame};

use super::Courier;
use crate::unacked::{Pushed, Viewer};

/// The frames of one batch: the same for all, but for those who do not get all of it.
pub(super) struct Frames {
    all: String,
    /// For clients of the seed's kind, if not the same.
    seeds: Option<Option<String>>,
    /// For those who get another one, or none.
    apart: HashMap<ConnectionId, Option<String>>,
}

impl Frames {
    /// What that viewer gets, if anything.
    pub(super) fn of(&self, viewer: Viewer<'_>) -> Option<&str> {
        let other = match viewer {
            Viewer::Seed => self.seeds.as_ref(),
            Viewer::V2(id) => self.apart.get(id),
        };
        other.map_or(Some(&self.all), |other| other.as_deref())
    }
}

impl Courier<'_> {
    /// The frames of a batch whose whole text is that.
    pub(super) fn frames(&self, messages: &[Pushed], redelivered: &[bool], all: String) -> Frames {
        // Nearly always.
        if messages.iter().all(|pushed| !pushed.is_own) {
            return Frames { all, seeds: None, apart: HashMap::new() };
        }
        let frame_for = |viewer| {
            let mut frame = ReceiverFrame::after(self.unacked.last());
            let mut end = None;
            for (pushed, redelivered) in messages.iter().zip(redelivered) {
                // It fits, as all of them do.
                if pushed.is_for(viewer) && frame.push(&pushed.message, *redelivered) {
                    end = Some(self.unacked.position(pushed));
                }
            }
            end.map(|end| frame.into_text(end))
        };
        let said = |id: &&ConnectionId| matches!(self.audience.viewer(id), Viewer::V2(_));
        let apart = self.audience.ids().filter(said).map(|id| (id.clone(), frame_for(Viewer::V2(id)))).collect();
        Frames { all, seeds: Some(frame_for(Viewer::Seed)), apart }
    }
}
