//! Faults that the protocol must survive, and mistakes that the search must find.

/// Maximum number of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A publish, or its confirm, is lost.
    pub unconfirmed: u8,
    /// A consumer is killed; another one, or the same restarted, continues.
    pub killed: u8,
    /// A consumer is frozen for any time, and continues where it was.
    pub frozen: u8,
    /// A consumer loses its connection to the broker, and does not notice.
    pub cut_off: u8,
    /// A consumer is asked to hand over its partition.
    pub handed_over: u8,
    /// The edge accepts a frame, and delivers it to nobody.
    pub swallowed: u8,
    /// A frame is posted twice, as the first response was lost.
    pub doubled: u8,
    /// A device loses its connection; frames in flight to it, and its ack, are lost.
    pub left: u8,
    /// An ack is lost.
    pub unacked: u8,
}

macro_rules! spend_fault {
    ($($name:ident),*) => {
        impl Faults {
            $(
                /// The remaining faults after this one, if it can happen.
                pub(crate) fn $name(self) -> Option<Self> {
                    self.$name.checked_sub(1).map(|$name| Self { $name, ..self })
                }
            )*
        }
    };
}

spend_fault!(unconfirmed, killed, frozen, cut_off, handed_over, swallowed, doubled, left, unacked);

/// A mistake that a protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A message leaves the queue once the edge has accepted it.
    TreatsPostAsDelivery,
    /// A frame does not name its predecessor.
    OmitsPredecessor,
    /// Requeued messages go to the end of the queue.
    RequeuesAtTail,
    /// A device shows all that arrives.
    ShowsOutOfOrder,
    /// A device acknowledges a frame that it skips.
    AcksSkippedMessages,
    /// Unacknowledged messages are never redelivered.
    NeverRedelivers,
    /// The lock is released before unacked deliveries are requeued.
    ReleasesBeforeRequeue,
    /// A new owner consumes before the broker has requeued the last owner's unacked deliveries.
    OpensBesideInFlight,
    /// A sender without a reply assumes that its message was accepted.
    SkipsConfirm,
    /// The queue is deleted if it is empty, without being unbound first.
    DeletesWithoutUnbinding,
    /// The queue is deleted even if it holds messages.
    DeletesWhatIsFull,
    /// Senders create a missing queue, instead of the owner alone.
    SenderDeclaresQueue,
    /// Dropping a second copy of a message settles the first one.
    DropSettlesTheFirst,
    /// A consumer that was frozen for long continues to push, as if it owned the partition.
    IgnoresPause,
}
