//! Model of a device: a client of version 2 that remembers what it has shown.

use super::{Protocol, State, Step, Steps, consumer::Frame, message};
use crate::{
    faults::Mistake,
    ids::{Id, Ids},
};

/// Maximum frames in flight to one device; further posts wait.
const WIRE: usize = 2;

/// One device of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    is_online: bool,
    /// Number of its connections so far.
    connections: u8,
    wire: [Option<Frame>; WIRE],
    /// Messages that it has shown, in order.
    pub(crate) shown: Ids,
    /// Names of all messages that it has received, in a set.
    taken: u16,
    /// Name of the last one.
    last: Option<Id>,
    /// The ack that is due.
    owes: Option<Id>,
}

impl Device {
    /// Its current connection.
    pub(crate) fn connection(&self) -> Option<u8> {
        self.is_online.then_some(self.connections)
    }

    /// Sends a frame to it, if there is space.
    pub(crate) fn queue_frame(&mut self, frame: Frame) -> Option<()> {
        *self.wire.iter_mut().find(|place| place.is_none())? = Some(frame);
        Some(())
    }
}

impl State {
    fn with_device(&self, d: usize, device: Device) -> Self {
        let mut next = *self;
        next.devices[d] = device;
        next
    }
}

impl Protocol {
    pub(super) fn device(&self, state: &State, d: usize, steps: &mut Steps) {
        let device = state.devices[d];
        if !device.is_online {
            let connections = device.connections + 1;
            let joined = state.with_device(d, Device { is_online: true, connections, ..device });
            steps.push((Step::Connect(d), joined));
            return;
        }
        if let Some(remaining) = state.faults.left() {
            let offline = Device { is_online: false, wire: [None; WIRE], owes: None, ..device };
            steps.push((Step::Leave(d), State { faults: remaining, ..state.with_device(d, offline) }));
        }
        if let Some(frame) = device.wire[0] {
            let next = state.with_device(d, Device { wire: [device.wire[1], None], ..device });
            steps.push((Step::Receive(d), self.receive(next, d, frame)));
        }
        if let Some(name) = device.owes {
            let next = state.with_device(d, Device { owes: None, ..device });
            steps.push((Step::Ack(d), State { acks: state.acks | 1 << name, ..next }));
            if let Some(remaining) = state.faults.unacked() {
                steps.push((Step::LoseAck(d), State { faults: remaining, ..next }));
            }
        }
    }

    /// Skips a frame whose predecessor is missing, and repeats its last ack; else shows new messages and acknowledges
    /// the last.
    fn receive(&self, mut state: State, d: usize, frame: Frame) -> State {
        let device = &mut state.devices[d];
        let last = frame.copies.last().map(|copy| self.name(copy));
        if frame.prev.is_some_and(|prev| device.taken & 1 << prev == 0) {
            device.owes = if self.is(Mistake::AcksSkippedMessages) { last } else { device.last };
            return state;
        }
        (device.last, device.owes) = (last, last);
        frame.copies.iter().fold(state, |state, copy| self.show(state, d, copy))
    }

    fn show(&self, mut state: State, d: usize, copy: Id) -> State {
        let (id, device) = (message(copy), state.devices[d]);
        let is_known = device.shown.has(id);
        state.devices[d].taken |= 1 << self.name(copy);
        if is_known && !self.is(Mistake::ShowsOutOfOrder) {
            return state;
        }
        let is_late = device.shown.iter().any(|shown| state.place(shown) > state.place(id));
        let has_gap = self.devices == 1 && state.place(id) != Some(device.shown.len() as usize);
        // A later device may only receive the second copy of a message that the other one has already shown.
        let is_second = copy != id && self.devices > 1;
        if is_known {
            state.wrong = Some("a device shows a message twice");
        } else if (is_late && !is_second) || has_gap {
            state.wrong = Some("a device shows a message in the wrong place");
        }
        state.devices[d].shown = if is_known { device.shown } else { device.shown.with(id) };
        state
    }
}
