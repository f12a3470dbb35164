//! What can go wrong: by bad luck, which the protocol must bear, and by mistake, which the search must find.

/// How often each thing goes wrong at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Luck {
    /// A publish, or its confirm, is lost.
    pub unconfirmed: u8,
    /// A consumer is killed; another, or the same started anew, goes on.
    pub killed: u8,
    /// A consumer is stopped for as long as it likes, and goes on where it was.
    pub frozen: u8,
    /// A consumer loses its connection to the broker, and does not know it.
    pub cut_off: u8,
    /// A consumer is asked for its partition.
    pub handed_over: u8,
    /// The edge says that it has taken a frame, and it reaches nobody.
    pub swallowed: u8,
    /// A frame is posted twice, as the first answer was lost.
    pub doubled: u8,
    /// A device loses its connection; what is under way to it, and its ack, are lost.
    pub left: u8,
    /// An ack is lost.
    pub unacked: u8,
}

macro_rules! less_luck {
    ($($name:ident),*) => {
        impl Luck {
            $(
                /// What luck is left once that has happened, if it can.
                pub(crate) fn $name(self) -> Option<Self> {
                    self.$name.checked_sub(1).map(|$name| Self { $name, ..self })
                }
            )*
        }
    };
}

less_luck!(unconfirmed, killed, frozen, cut_off, handed_over, swallowed, doubled, left, unacked);

/// What a protocol could get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A message leaves the queue when the edge has taken it.
    TakenIsDelivered,
    /// A frame does not name its predecessor.
    NamesNoPredecessor,
    /// What is given back goes to the end of the queue.
    GivesBackToTheEnd,
    /// A device shows whatever comes.
    ShowsWhateverComes,
    /// A device acknowledges a frame that it lets pass.
    AcksWhatItLetsPass,
    /// What is not acknowledged is never pushed again.
    NeverRepeats,
    /// The lock is released before what is on loan has been given back.
    ReleasesBeforeGivingBack,
    /// A new owner takes from the queue before the broker has taken back what the last one had on loan.
    OpensBesideLoans,
    /// A sender that hears nothing takes its message for accepted.
    BelievesWithoutConfirm,
    /// The queue is deleted if it is empty, without having been taken out of the routing first.
    DeletesWithoutUnbinding,
    /// The queue is deleted whatever it holds.
    DeletesWhatIsFull,
    /// Senders make the queue that they miss, and not the owner alone.
    AnybodyDeclares,
    /// The second copy of a message settles the first one when it is dropped.
    DropSettlesTheFirst,
    /// A consumer that was frozen for long goes on pushing what it holds, as if it owned the partition.
    NeverLooksAtTheLease,
}
