//! A device: a client of version 2 that keeps what it has shown.

use super::{Protocol, State, Step, Steps, consumer::Frame, message};
use crate::{
    faults::Mistake,
    ids::{Id, Ids},
};

/// Frames on their way to one device at most; then a post waits.
const WIRE: usize = 2;

/// One device of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    is_online: bool,
    /// How often it has connected.
    connections: u8,
    wire: [Option<Frame>; WIRE],
    /// The messages that it has shown, in that order.
    pub(crate) shown: Ids,
    /// The names of all that it has taken, in a set.
    taken: u16,
    /// The name of what it has taken last.
    last: Option<Id>,
    /// What it is to acknowledge.
    owes: Option<Id>,
}

impl Device {
    /// The connection that it has.
    pub(crate) fn connection(&self) -> Option<u8> {
        self.is_online.then_some(self.connections)
    }

    /// Puts a frame on its way, if there is room.
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
        if let Some(luck) = state.luck.left() {
            let offline = Device { is_online: false, wire: [None; WIRE], owes: None, ..device };
            steps.push((Step::Leave(d), State { luck, ..state.with_device(d, offline) }));
        }
        if let Some(frame) = device.wire[0] {
            let next = state.with_device(d, Device { wire: [device.wire[1], None], ..device });
            steps.push((Step::Receive(d), self.receive(next, d, frame)));
        }
        if let Some(name) = device.owes {
            let next = state.with_device(d, Device { owes: None, ..device });
            steps.push((Step::Ack(d), State { acks: state.acks | 1 << name, ..next }));
            if let Some(luck) = state.luck.unacked() {
                steps.push((Step::LoseAck(d), State { luck, ..next }));
            }
        }
    }

    /// Lets a frame pass that follows one which it does not have, and says once more what it has; else shows what is
    /// new to it, and acknowledges the last.
    fn receive(&self, mut state: State, d: usize, frame: Frame) -> State {
        let device = &mut state.devices[d];
        let last = frame.copies.last().map(|copy| self.name(copy));
        if frame.prev.is_some_and(|prev| device.taken & 1 << prev == 0) {
            device.owes = if self.is(Mistake::AcksWhatItLetsPass) { last } else { device.last };
            return state;
        }
        (device.last, device.owes) = (last, last);
        frame.copies.iter().fold(state, |state, copy| self.show(state, d, copy))
    }

    fn show(&self, mut state: State, d: usize, copy: Id) -> State {
        let (id, device) = (message(copy), state.devices[d]);
        let is_known = device.shown.has(id);
        state.devices[d].taken |= 1 << self.name(copy);
        if is_known && !self.is(Mistake::ShowsWhateverComes) {
            return state;
        }
        let is_late = device.shown.iter().any(|shown| state.place(shown) > state.place(id));
        let has_gap = self.devices == 1 && state.place(id) != Some(device.shown.len() as usize);
        // A device that came later may get only the second copy of what the other one has shown long ago.
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
