//! What use-cases need from outside, each as the smallest trait that says it.
//!
//! Every port has an adapter in [`crate::memory`] and one for the real thing; the clauses that both must
//! pass are in `contract`.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{AckFrame, ConnectionId, Er, Message, MessageId, Notice, RoomId, TraceContext, UserId};

use crate::{
    Partition, Session, Timestamp,
    limits::{Rate, Share},
};

/// Whatever a vendor's library reported.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Something outside did not do what it was asked, for now.
#[derive(Debug, thiserror::Error)]
#[error("{dependency} failed to {action}")]
pub struct Unavailable {
    /// What it is: `redis`, `rabbitmq`, `api gateway`.
    pub dependency: &'static str,
    /// What it was asked to do.
    pub action: &'static str,
    /// What its library reported.
    #[source]
    pub source: BoxError,
}

impl Unavailable {
    /// A failure of `dependency` to `action`.
    pub fn new(dependency: &'static str, action: &'static str, source: impl Into<BoxError>) -> Self {
        Self { dependency, action, source: source.into() }
    }
}

/// Who a token says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// Until when the token is to be believed, if not for ever.
    pub expires: Option<Timestamp>,
    /// The rooms that the token lists, where such a list is looked at.
    pub rooms: Option<Vec<String>>,
}

/// Why a token was refused. It never holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It doesn't verify, or says too little.
    #[error("the token is invalid")]
    Invalid,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// Nobody can tell: the keys that it would be checked with are out of reach.
    #[error("the keys for tokens are out of reach")]
    NoKeys,
}

impl TokenError {
    /// The code for the client.
    #[must_use]
    pub const fn code(self) -> Er {
        match self {
            Self::Invalid => Er::TokenInvalid,
            Self::Expired => Er::TokenExpired,
            Self::NoKeys => Er::Internal,
        }
    }
}

/// Tells who bears a token.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// Checks signature and claims.
    ///
    /// # Errors
    /// [`TokenError`] when it must not be believed.
    async fn verify(&self, token: &str) -> Result<Identity, TokenError>;
}

/// A connection by which a user can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// Its name.
    pub connection: ConnectionId,
    /// What its handshake has told us. Whoever serves the user keeps it, in case the registry loses it.
    pub session: Session,
}

/// Under which conditions a connection is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The provisional user under whom the connection is known until now, if it is: it moves from one to the other in the
    /// same step.
    pub instead_of: Option<UserId>,
    /// How many connections a user may have.
    pub limit: usize,
    /// How often a user may connect.
    pub rate: Option<Rate>,
    /// The present moment.
    pub now: Timestamp,
}

/// What became of an attempt to create a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is registered.
    Done,
    /// The user has as many connections as it may have, or so the registry believes.
    TooMany {
        /// Whether it is time to have them checked against the edge; somebody else has seen to that otherwise.
        check: bool,
    },
    /// The user connects too often, or is blocked: not before that span is over.
    Limited(Duration),
    /// It belongs to another user.
    Taken,
    /// It has ended already, or was never there.
    Gone,
}

/// What became of an attempt to change a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// It is changed.
    Done,
    /// It is not what it was taken for, but this; nothing is changed.
    Changed(Session),
    /// There is no such connection (any more).
    Gone,
}

/// What a frame costs its user. Everything that a client says is counted by the same round trip that reads its session.
#[derive(Clone, Debug)]
pub struct Charge<'a> {
    /// Under what it is counted.
    pub class: Class,
    /// As how many.
    pub cost: u32,
    /// How often a user may do it.
    pub rate: Option<Rate>,
    /// The message that it brings, if it brings one, or the user whom it has read something of.
    pub message: Option<Addressed<'a>>,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Messages.
    Sends,
    /// Acks.
    Acks,
    /// Everything else, and what can't be understood.
    Requests,
}

/// A message on its way to a recipient.
#[derive(Clone, Debug)]
pub struct Addressed<'a> {
    /// Who shall get it; nothing if those in a room shall.
    pub to: Option<&'a UserId>,
    /// How many bytes its text takes as JSON.
    pub bytes: usize,
    /// How often a user may write to somebody new.
    pub new_recipients: Option<Rate>,
    /// How much of one sender may wait.
    pub share: Option<Share>,
}

/// Who has said something, and whether it may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    /// What is known of the connection.
    pub session: Session,
    /// Whether the user has another connection of version 2. Only looked up for a message.
    pub has_other_devices: bool,
    /// Whether it may be done.
    pub verdict: Verdict,
}

/// Whether a user may do what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Granted,
    /// Too often: not before that span is over.
    Limited(Duration),
    /// As much as may wait of one sender waits for that recipient.
    ShareFull,
    /// It has gone on in spite of refusals, and is blocked.
    Blocked {
        /// For how long it still is.
        left: Duration,
        /// Whether its owner is to be told to close its connections.
        kick: bool,
    },
}

/// Knows which connections are whose. Every change is one atomic step with a condition, and may be repeated blindly.
#[async_trait]
pub trait ConnectionRegistry: Send + Sync {
    /// Remembers a connection until [`Session::forgotten_at`], if it may be admitted. One that its user has already is
    /// left as it is.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be remembered.
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<Created, Unavailable>;

    /// Puts one session in the place of another one of the same user, if it is still that.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be changed.
    async fn update(&self, connection: &ConnectionId, old: &Session, new: &Session) -> Result<Updated, Unavailable>;

    /// Remembers a connection again that a registry which has lost everything does not know any more, unless its user has
    /// `limit` others by now. One that is known is left as it is, and so is one that has ended.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be remembered.
    async fn restore(&self, connection: &ConnectionId, session: &Session, limit: usize)
    -> Result<Created, Unavailable>;

    /// Who is behind a connection.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable>;

    /// Who is behind a connection, and whether that user may do what it asks for; counts it. A repetition counts twice.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn enter(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<Entered>, Unavailable>;

    /// Forgets a connection that has ended, and says whose it was, if it was known. From then on it can't be created or
    /// restored for a while: the step that wanted to may still be on its way.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be forgotten.
    async fn end(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable>;

    /// Forgets a connection of that user, if it is still that user's; one that is unknown is forgotten already.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be forgotten.
    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable>;

    /// The connections by which a user can be reached at that moment.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<Reachable>, Unavailable>;

    /// The users of a partition who can be reached at that moment. It may name a few who no longer can.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn online(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable>;

    /// Marks a partition as known; says whether it was already. A mark that is gone is how a registry shows that it has
    /// lost everything.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be marked.
    async fn mark(&self, partition: Partition) -> Result<bool, Unavailable>;

    /// Whether the partition's mark is still there.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn is_marked(&self, partition: Partition) -> Result<bool, Unavailable>;
}

/// What the first send with an `rno` settled for every repetition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message's id.
    pub id: MessageId,
    /// When it was accepted.
    pub time: Timestamp,
    /// A hash of recipient and text, by which functions of the release before tell a repetition from another message.
    pub digest: u128,
    /// The same and who sent it, by a hash that nobody can steer; claims of the release before have none.
    pub content: Option<u128>,
}

/// What became of an attempt to be the first with an `rno`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody was here before.
    First,
    /// Somebody was, and it is not known whether the broker has the message.
    Pending(Claim),
    /// Somebody was, and the broker has the message.
    Done(Claim),
}

/// Remembers which `rno` of which user stands for which message.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Takes an `rno` for a message, unless it is taken.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be taken now.
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<Claimed, Unavailable>;

    /// Notes that the broker has the message.
    ///
    /// # Errors
    /// [`Unavailable`]: a repetition will be published again, under the same id.
    async fn settle(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable>;
}

/// Hashes that tell messages apart.
pub trait MessageHash: Send + Sync {
    /// A hash for which nobody finds two texts, the same in every deployment: SHA-256.
    fn digest(&self, text: &[u8]) -> [u8; 32];

    /// A hash that nobody can compute, or guess at, who has not the deployment's key: HMAC-SHA-256.
    fn seal(&self, text: &[u8]) -> [u8; 32];
}

/// Why a message is not, or not surely, with the broker.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for the recipient.
    #[error("no queue is bound for the recipient")]
    NoRoute,
    /// The recipient's queue takes no more.
    #[error("the recipient's queue is full")]
    Full,
    /// The broker surely does not have it.
    #[error(transparent)]
    Unavailable(Unavailable),
    /// The broker may have it: a repetition must carry the same id.
    #[error("the broker did not confirm in time")]
    Unconfirmed(#[source] Unavailable),
}

/// Hands messages to the broker.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Returns once the broker keeps the message, and its trace beside it, for its recipient.
    ///
    /// # Errors
    /// [`PublishError`]; the adapter bounds the time until then.
    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError>;

    /// Returns once the broker keeps the message for those who are in the room. Whoever's queue is full misses it: that
    /// must not silence the room.
    ///
    /// # Errors
    /// [`PublishError`]; no route means that nobody's queue is bound to the room.
    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError>;
}

/// Binds users' queues to rooms: the broker hands what is said in a room to each of them.
#[async_trait]
pub trait RoomBindings: Send + Sync {
    /// Binds a user's queue to a room; it may be bound already.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be bound.
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<Bound, Unavailable>;

    /// Takes it out of the room; it may not be bound, or not be there.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be bound.
    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable>;
}

/// What an attempt to bind a queue has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is bound.
    Done,
    /// There is no such queue.
    NoQueue,
}

/// To which rooms a user's queue is to be bound, and to which not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomsOfUser {
    /// Those that the user is in, in the order of their ids.
    pub rooms: Vec<RoomId>,
    /// Those that the user has left lately, in the order of their ids.
    pub left: Vec<RoomId>,
}

/// Remembers who is in which room.
#[async_trait]
pub trait Memberships: Send + Sync {
    /// Puts a user into a room, unless the user is in that many others; says whether the user is in it now.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may or may not be in it.
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable>;

    /// Takes a user out of a room, and remembers for a while that the user has left it.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may or may not be in it.
    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable>;

    /// The rooms of a user, and those that the user has left and whose bindings may still be there, as whoever was to
    /// unbind them may have died. Both at one moment.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn rooms_and_left(&self, user: &UserId) -> Result<RoomsOfUser, Unavailable>;

    /// Notes that a user's queue is bound to none of the rooms that the user has left. Those that were left within the
    /// last minute stay remembered: a try to bind them may still be under way to the broker.
    ///
    /// # Errors
    /// [`Unavailable`]: they may be unbound once more.
    async fn forget_left(&self, user: &UserId) -> Result<(), Unavailable>;

    /// The rooms of a user, in the order of their ids.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable>;

    /// Whether a user is in a room.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable>;
}

/// Decides who may join which room.
#[async_trait]
pub trait RoomPolicy: Send + Sync {
    /// Whether the session's user may join the room.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody can tell for now.
    async fn may_join(&self, session: &Session, room: &RoomId) -> Result<bool, Unavailable>;
}

/// Has queues made.
#[async_trait]
pub trait Queues: Send + Sync {
    /// Makes sure that a user who has connected will be known, where a queue is what tells users from strangers.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may stay a stranger.
    async fn enrol(&self, user: &UserId) -> Result<(), Unavailable>;

    /// Has the queue made of a user for whom there is a message: by the user's owner, who alone may remove it again, or
    /// here, if nobody owns the user. The owner makes few at once, and those who ask take turns.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not exist.
    async fn request(&self, user: &UserId, asker: &UserId) -> Result<Requested, Unavailable>;
}

/// What a request for a queue has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// The queue is there.
    Made,
    /// The owner was asked, and makes it in a moment.
    Asked,
}

/// Tells a user's owner to look at the registry again.
#[async_trait]
pub trait Pokes: Send + Sync {
    /// Pokes the owner. A lost, late or repeated poke does no harm: it carries no state.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn poke(&self, user: &UserId) -> Result<(), Unavailable>;
}

/// Tells a user's owner what the user has got.
#[async_trait]
pub trait Acks: Send + Sync {
    /// Tells the owner what the user has, and has not. An ack that gets lost does no harm: the message comes again,
    /// and so does the ack.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn acked(&self, user: &UserId, ack: &AckFrame) -> Result<(), Unavailable>;
}

/// Tells a user's owner what the user may like to know.
#[async_trait]
pub trait Notices: Send + Sync {
    /// Has the notice pushed to those of the user's connections that know such, if there are any just now. Nothing is
    /// queued: one that gets lost is lost.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable>;
}

/// How much of what one user sent another one has got or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who sent it.
    pub author: UserId,
    /// Who has it.
    pub reader: UserId,
    /// What the reader has done with it.
    pub stage: Stage,
    /// The last message that it holds for; it holds for all before it.
    pub message: MessageId,
}

/// How far a message has come at its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A client of the receiver has it.
    Delivered,
    /// The receiver has read it.
    Read,
}

/// What is known of what one user sent to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The last message that was delivered.
    pub delivered: Option<MessageId>,
    /// The last message that was read.
    pub read: Option<MessageId>,
}

/// Remembers receipts.
#[async_trait]
pub trait Receipts: Send + Sync {
    /// Notes receipts. A mark never moves back, by the order of message ids as texts.
    ///
    /// # Errors
    /// [`Unavailable`]: some may be noted.
    async fn note_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable>;

    /// What each of the readers has done with what the author sent, in their order.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn marks(&self, author: &UserId, readers: &[UserId]) -> Result<Vec<Marks>, Unavailable>;
}

/// When a user was there last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody knows.
    Never,
    /// The user came, and was not seen to leave.
    Here,
    /// The user left then.
    Left(Timestamp),
}

/// What is known of whether a user is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether a connection is registered.
    pub is_reachable: bool,
    /// When the user was there last.
    pub seen: Seen,
}

/// Remembers who was there, and who wants to be told of whom.
#[async_trait]
pub trait Presences: Send + Sync {
    /// Has a watcher told of these users until then; says how each of them is at that moment, in their order. Of too many
    /// who watch one user, those whose time ends first are forgotten.
    ///
    /// # Errors
    /// [`Unavailable`]: the watcher may be told of some.
    async fn watch(
        &self,
        watcher: &UserId,
        users: &[UserId],
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Presence>, Unavailable>;

    /// Notes that a user is there; says what was noted before.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be noted.
    async fn came(&self, user: &UserId) -> Result<Seen, Unavailable>;

    /// Notes that a user has left.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be noted.
    async fn left(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable>;

    /// Who is to be told of a user at that moment.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable>;
}

/// Knows how much of each sender waits for a recipient, by [`ConnectionRegistry::enter`], which counts it.
#[async_trait]
pub trait SenderShares: Send + Sync {
    /// Nothing waits for the user any more.
    ///
    /// # Errors
    /// [`Unavailable`]: some may still count.
    async fn clear_shares(&self, user: &UserId) -> Result<(), Unavailable>;

    /// What was counted of a sender for that user has not come into the queue after all.
    ///
    /// # Errors
    /// [`Unavailable`]: it may still count.
    async fn give_back(&self, user: &UserId, sender: &UserId, weight: u64) -> Result<(), Unavailable>;

    /// What was counted before the last call of this has left the queue; what was counted since then goes on to count.
    ///
    /// # Errors
    /// [`Unavailable`]: some may count for longer.
    async fn rotate_shares(&self, user: &UserId) -> Result<(), Unavailable>;
}

/// Tells a user's owner what to do about connections.
#[async_trait]
pub trait Supervision: Send + Sync {
    /// Has a connection closed, or all of the user's, whose clients are told that they asked too often.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn close(&self, user: &UserId, connection: Option<&ConnectionId>) -> Result<(), Unavailable>;

    /// Has each of the user's connections checked against the edge, and those forgotten that are gone.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn check(&self, user: &UserId) -> Result<(), Unavailable>;
}

/// Has a frame pushed that a connection is to get beside the answer of its function.
#[async_trait]
pub trait Replies: Send + Sync {
    /// Asks the user's owner to push a frame to one of the user's connections. It may get lost, as the owner may.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not know.
    async fn reply(&self, user: &UserId, connection: &ConnectionId, frame: &str) -> Result<(), Unavailable>;
}

/// Why a frame did not reach a connection.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// There is no such connection (any more, or yet).
    #[error("the connection is gone")]
    Gone,
    /// The edge would take it later.
    #[error(transparent)]
    Retryable(Unavailable),
    /// The edge will never take this frame.
    #[error("the edge refused the frame")]
    Refused(#[source] Unavailable),
}

/// The edge's side door: pushes frames to connections.
#[async_trait]
pub trait ConnectionsApi: Send + Sync {
    /// Pushes a text frame; returns once the edge has taken it. The adapter bounds the time until then.
    ///
    /// # Errors
    /// [`PostError`].
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError>;

    /// Ends a connection, so that its client connects anew; one that is gone has ended already. The adapter bounds
    /// the time until then.
    ///
    /// # Errors
    /// [`Unavailable`]: it may still be open.
    async fn close(&self, connection: &ConnectionId) -> Result<(), Unavailable>;

    /// Whether the edge has such a connection. The adapter bounds the time until then.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody can tell.
    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable>;
}

/// Names a delivery until it is acked, discarded or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag(pub u64);

/// A message on loan from its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its name on this loan.
    pub tag: Tag,
    /// The body as it was published.
    pub body: Vec<u8>,
    /// Whether it was on loan before.
    pub redelivered: bool,
    /// The trace that came beside the body.
    pub trace: Option<TraceContext>,
    /// The connection that sent it, if it came beside the body.
    pub via: Option<ConnectionId>,
}

/// Opens users' queues.
#[async_trait]
pub trait Mailbox: Send + Sync {
    /// Starts to take from a user's queue, which is made if need be. At most one taker at a time.
    ///
    /// # Errors
    /// [`Unavailable`] when it can't be opened for now.
    async fn open(&self, user: &UserId) -> Result<Box<dyn Deliveries>, Unavailable>;

    /// Makes sure that the queue exists and is bound of a user for whom somebody has a message. Nobody who comes waits
    /// behind these.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not exist.
    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable>;

    /// Binds a user's queue, which is there, to rooms.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be bound to some.
    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable>;

    /// Takes a user's queue out of rooms; it may not be bound to them, or not be there.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be bound to some.
    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable>;

    /// Looks at the queue of a user who is away, and leaves it as it is.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn look(&self, user: &UserId) -> Result<Retired, Unavailable>;

    /// Removes the queue of a user who is away, if nothing waits in it and empty queues do not stay. It may take a while, and leaves the queue as it is when `called_back` comes first.
    ///
    /// Only who makes a user's queues may remove them: a message that somebody else puts into a queue which goes at that
    /// moment is confirmed, and gone.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be removed, and may be out of the routing.
    async fn retire(&self, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable>;
}

/// What an attempt to remove a queue has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// There is no queue: who has a message for the user hears of that, and asks for one.
    Gone,
    /// Nothing waits, but the queue stays, and what comes into it comes unseen. The broker keeps it for at least so long,
    /// if nobody looks at it.
    Idle(Duration),
    /// It was called back, and the queue is there.
    Kept,
    /// Messages wait, and the broker keeps their queue for at least so long, if nobody looks at it.
    Waiting(Duration),
}

/// Remembers whose queues stay while they are away, most of them with messages: they must be looked at now and then, and
/// are counted.
#[async_trait]
pub trait Backlogs: Send + Sync {
    /// Notes when a user's queue must be looked at.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be noted.
    async fn note(&self, user: &UserId, look_at: Timestamp) -> Result<(), Unavailable>;

    /// Notes that a user has no queue any more, or is back.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be noted.
    async fn clear(&self, user: &UserId) -> Result<(), Unavailable>;

    /// The users of a partition whose queues must be looked at by now, at most so many.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn due(&self, partition: Partition, now: Timestamp, limit: usize) -> Result<Vec<UserId>, Unavailable>;

    /// How many users of a partition are noted.
    ///
    /// # Errors
    /// [`Unavailable`] when nobody could be asked.
    async fn count(&self, partition: Partition) -> Result<u64, Unavailable>;
}

/// Why a message can never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// Its body can't be read: somebody else has written it.
    NotAMessage,
    /// No frame can hold it.
    TooLarge,
    /// The edge refused it for good.
    Refused,
}

impl Undeliverable {
    /// What operators read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAMessage => "not-a-message",
            Self::TooLarge => "too-large",
            Self::Refused => "refused-by-the-edge",
        }
    }
}

/// What comes out of one user's queue, in its order.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Waits for the next message; `None` when the loans have ended and went back by themselves.
    ///
    /// Safe to drop while waiting: no message is lost by that.
    async fn next(&mut self) -> Option<Delivery>;

    /// The next message, if it is here already.
    fn try_next(&mut self) -> Option<Delivery>;

    /// Whether the loans are still ours. Not so after a pause long enough for the broker to give us up.
    fn is_ours(&self) -> bool;

    /// The promise to the sender is kept: removes the messages from the queue.
    ///
    /// # Errors
    /// [`Unavailable`]: some may come again.
    async fn ack(&mut self, tags: &[Tag]) -> Result<(), Unavailable>;

    /// It can never be delivered: moves the message, which has this body, to where operators look for such.
    ///
    /// # Errors
    /// [`Unavailable`]: it may come again.
    async fn discard(&mut self, tag: Tag, body: &[u8], why: Undeliverable) -> Result<(), Unavailable>;

    /// Stops and gives back, in order, all that is not acked.
    async fn close(self: Box<Self>);
}

/// What changes for the owner of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipEvent {
    /// It is ours now: serve those who are online.
    Acquired(Partition),
    /// It is ours no more, and all that was on loan has gone back.
    Lost(Partition),
    /// Another one is waiting for it: stop serving it, then [`Ownership::release`] it.
    Asked(Partition),
    /// Something about that user has changed.
    Poked(UserId),
    /// A client of that user says what it has, and has not.
    Acked(UserId, AckFrame),
    /// A sender, if it says who it is, has found no queue for that user.
    Wanted(UserId, Option<UserId>),
    /// There is something that the user may like to know.
    Noticed(UserId, Notice),
    /// That connection of the user is to get a frame.
    Replied(UserId, ConnectionId, String),
    /// That connection of the user is to be closed, or all of them, as they ask too often.
    Closing(UserId, Option<ConnectionId>),
    /// The user's connections are to be checked against the edge.
    Checking(UserId),
}

/// Shares partitions among consumers, so that each has one owner at most.
#[async_trait]
pub trait Ownership: Send {
    /// Waits for the next change. Safe to drop while waiting.
    async fn next(&mut self) -> OwnershipEvent;

    /// Lets another one own a partition. Nothing of it may be on loan any more.
    async fn release(&mut self, partition: Partition);

    /// Gives up every partition and leaves.
    async fn resign(&mut self);
}

#[async_trait]
impl<T: Ownership + ?Sized> Ownership for Box<T> {
    async fn next(&mut self) -> OwnershipEvent {
        (**self).next().await
    }

    async fn release(&mut self, partition: Partition) {
        (**self).release(partition).await;
    }

    async fn resign(&mut self) {
        (**self).resign().await;
    }
}
