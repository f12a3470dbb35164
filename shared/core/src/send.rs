//! A client sends a message.

use std::{sync::Arc, time::Duration};

use futures_util::future::join;
use kschat_protocol::{
    ConnectionId, Er, Message, MessageId, Recipient, RoomId, SendFrame, SendReply, Status, UserId, Version,
};
use tokio::time::{Instant, sleep};

use crate::{
    Clock, Session, Timestamp,
    hash::stable,
    inbound::{Caller, Refused},
    mint::{self, Content},
    ports::{
        Backlogs, Claim, Claimed, IdempotencyStore, MessageHash, PublishError, Publisher, Queues, Requested,
        SenderShares, Unavailable,
    },
    retire::FIRST_LOOK,
    rooms, trace,
};

/// How long a send waits for the queue of its receiver to be made.
const FOR_A_QUEUE: Duration = Duration::from_secs(2);

/// How long it waits first; twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// What happens to a message for somebody who has never connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strangers {
    /// A queue is made, and the message waits there.
    #[default]
    Queue,
    /// The sender hears [`Er::RecipientUnknown`].
    Refuse,
}

/// What [`send`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Tells a repetition from a new message.
    pub idempotency: Arc<dyn IdempotencyStore>,
    /// Tells one message from another.
    pub hash: Arc<dyn MessageHash>,
    /// Takes the message.
    pub publisher: Arc<dyn Publisher>,
    /// Has a queue made that is not there yet.
    pub queues: Arc<dyn Queues>,
    /// Remembers for whom messages wait who is away.
    pub backlogs: Arc<dyn Backlogs>,
    /// Knows how much of each sender waits for a recipient, if anybody counts that.
    pub shares: Option<Arc<dyn SenderShares>>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Rooms.
    pub rooms: rooms::Deps,
    /// What to do for those who have none.
    pub strangers: Strangers,
}

/// Why a well-formed send failed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Its sender has sent too much.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The session's token has ended.
    #[error("the session has expired")]
    Expired,
    /// The frame names somebody else as its sender.
    #[error("uId is not the session's user")]
    NotYou,
    /// The sender is not in the room.
    #[error("the sender is not in the room")]
    NotInRoom,
    /// The sender is in the room, and may not be there any more.
    #[error("the room is not for the sender any more")]
    RoomForbidden,
    /// A version-2 client must name its message.
    #[error("a version-2 send carries no rno")]
    NoRno,
    /// The `rno` stands for another message.
    #[error("the rno stands for another message")]
    RnoReused,
    /// The room or the `rno` can't be looked up.
    #[error("the registry is out of reach")]
    Registry(#[source] Unavailable),
    /// The broker has not, or not surely, taken it.
    #[error("the message was not accepted")]
    Publish(#[source] PublishError),
}

impl SendError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Expired => Er::TokenExpired,
            Self::NotYou => Er::NotYou,
            Self::NotInRoom | Self::RoomForbidden => Er::Forbidden,
            Self::NoRno => Er::InvalidField,
            Self::RnoReused => Er::RnoReused,
            Self::Registry(_) => Er::RegistryUnavailable,
            Self::Publish(error) => match error {
                PublishError::NoRoute => Er::RecipientUnknown,
                PublishError::Full => Er::BacklogFull,
                PublishError::Unavailable(_) => Er::BrokerUnavailable,
                PublishError::Unconfirmed(_) => Er::Unconfirmed,
            },
        }
    }
}

/// Takes a message from a connection to the recipient's queue; the reply goes back to that connection.
pub async fn send(deps: &Deps, caller: &Caller, frame: SendFrame) -> SendReply {
    let accepted = accept(deps, caller, &frame).await;
    give_back(deps, caller, &frame, &accepted).await;
    match accepted {
        Ok((message, repeated)) => {
            tracing::debug!(repeated, "send accepted");
            SendReply::accepted(message, repeated)
        }
        Err(error) => {
            if error.code().is_ours() {
                tracing::warn!(er = error.code().number(), error = &error as &dyn std::error::Error, "send failed");
            } else {
                tracing::info!(er = error.code().number(), %error, "send refused");
            }
            match error {
                SendError::NoRno => SendReply::without_rno(frame),
                SendError::Refused(refused) => SendReply::refused(refused.code(), refused.retry(), frame),
                error => SendReply::failed(error.code(), frame),
            }
        }
    }
}

/// What has surely not come into the queue does not count as the sender's share of it.
async fn give_back(deps: &Deps, caller: &Caller, frame: &SendFrame, accepted: &Result<(Message, bool), SendError>) {
    let is_in_queue = match accepted {
        Ok((_, repeated)) => !repeated,
        Err(error) => matches!(error, SendError::Publish(PublishError::Unconfirmed(_))),
    };
    let (Recipient::User(to), Some(shares)) = (&frame.recipient, &deps.shares) else { return };
    let sender = &caller.session.user;
    if is_in_queue || caller.counted == 0 || to == sender {
        return;
    }
    if let Err(error) = shares.give_back(to, sender, caller.counted).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a send that failed counts as if it waited");
    }
}

async fn accept(deps: &Deps, caller: &Caller, frame: &SendFrame) -> Result<(Message, bool), SendError> {
    let now = deps.clock.now();
    let Caller { connection, session, .. } = caller;
    authorize(session, frame, now)?;
    caller.check()?;
    check_room(deps, session, frame).await?;
    match session.version {
        Version::Seed => {
            let id = mint::fresh();
            let message = message(frame, connection, id, now);
            publish(deps, &session.user, &frame.recipient, &message).await?;
            Ok((message, false))
        }
        Version::V2 => {
            let sender = Sender { user: &session.user, connection, has_others: caller.has_other_devices };
            accept_once(deps, &sender, frame, now).await
        }
    }
}

/// Who sends, by a connection of version 2.
struct Sender<'a> {
    user: &'a UserId,
    connection: &'a ConnectionId,
    /// Whether there are other connections of version 2, which show what the user sends.
    has_others: bool,
}

/// The token says who sends; a frame that says otherwise is refused.
fn authorize(session: &Session, frame: &SendFrame, now: Timestamp) -> Result<(), SendError> {
    if session.is_expired(now) {
        return Err(SendError::Expired);
    }
    if frame.claimed_sender != session.user {
        return Err(SendError::NotYou);
    }
    Ok(())
}

/// Who speaks in a room must be in it, and must still be allowed to: a fresh token may list fewer rooms than the one
/// with which the user joined.
async fn check_room(deps: &Deps, session: &Session, frame: &SendFrame) -> Result<(), SendError> {
    let Recipient::Room(room) = &frame.recipient else { return Ok(()) };
    if !deps.rooms.memberships.is_member(&session.user, room).await.map_err(SendError::Registry)? {
        return Err(SendError::NotInRoom);
    }
    let is_allowed = deps.rooms.policy.may_join(session, room).await.map_err(SendError::Registry)?;
    if is_allowed { Ok(()) } else { Err(SendError::RoomForbidden) }
}

fn message(frame: &SendFrame, connection: &ConnectionId, id: MessageId, time: Timestamp) -> Message {
    // The caller's span has a place for it: whatever is said from here on names the message.
    tracing::Span::current().record("mId", id.as_str());
    // In a room the sender is one of the receivers.
    let is_in_room = matches!(frame.recipient, Recipient::Room(_));
    Message {
        from: frame.uid.clone(),
        to: frame.pid.clone(),
        msg: frame.msg.clone(),
        status: Status::Accepted,
        time: time.millis(),
        id,
        rno: frame.rno.clone(),
        trace: trace::handed_on(frame.trace.clone()),
        room: is_in_room.then(|| frame.pid.clone()),
        via: is_in_room.then(|| connection.clone()),
    }
}

/// Publishes at most one message for one `rno`, under one id, however often it is asked to.
///
/// Says also whether the message was accepted before.
async fn accept_once(
    deps: &Deps,
    sender: &Sender<'_>,
    frame: &SendFrame,
    now: Timestamp,
) -> Result<(Message, bool), SendError> {
    let rno = frame.rno.as_ref().ok_or(SendError::NoRno)?.to_string();
    let proposal = proposal(deps, sender.user, &rno, frame, now);
    let claimed = deps.idempotency.claim(sender.user, &rno, &proposal).await.map_err(SendError::Registry)?;
    let (claim, done) = match claimed {
        Claimed::First => (proposal.clone(), false),
        Claimed::Pending(claim) => (claim, false),
        Claimed::Done(claim) => (claim, true),
    };
    if !is_same(&claim, &proposal) {
        return Err(SendError::RnoReused);
    }
    let message = message(frame, sender.connection, claim.id.clone(), claim.time);
    if !done {
        publish(deps, sender.user, &frame.recipient, &message).await?;
        join(settle(deps, sender.user, &rno, &claim), copy(deps, sender, &message)).await;
    }
    Ok((message, done))
}

fn proposal(deps: &Deps, sender: &UserId, rno: &str, frame: &SendFrame, now: Timestamp) -> Claim {
    let (hash, msg) = (deps.hash.as_ref(), frame.msg.as_bytes());
    let content = Content { sender, recipient: &frame.recipient, rno, msg: &frame.msg }.digest(hash);
    let digest = match &frame.recipient {
        Recipient::User(user) => stable(&[user.as_str().as_bytes(), msg]),
        Recipient::Room(room) => stable(&[b"room", room.as_str().as_bytes(), msg]),
    };
    Claim { id: mint::for_send(content, hash, now), time: now, digest, content: Some(mint::half(content)) }
}

/// Whether a claim is for the same message. It does not depend on the key, which may have been replaced meanwhile.
fn is_same(claim: &Claim, proposal: &Claim) -> bool {
    // Made by a function of the release before.
    let is_former = claim.content.is_none();
    if is_former { claim.digest == proposal.digest } else { claim.content == proposal.content }
}

/// The message is accepted whether or not this can be noted: a repetition would only publish its id again.
async fn settle(deps: &Deps, user: &UserId, rno: &str, claim: &Claim) {
    if let Err(error) = deps.idempotency.settle(user, rno, claim).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an accepted send was not noted as such");
    }
}

/// Shows the user's other devices what was sent. The message is accepted whether or not that succeeds.
async fn copy(deps: &Deps, sender: &Sender<'_>, message: &Message) {
    // What the user says to itself, or in a room, gets there anyway.
    if message.room.is_some() || !sender.has_others || !message.is_own_of(sender.user) {
        return;
    }
    let copy = Message { via: Some(sender.connection.clone()), ..message.clone() };
    // The queue may be about to be made: the user has just come.
    if let Err(error) = publish_to_user(deps, sender.user, sender.user, &copy).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a sender's other devices do not see what was sent");
    }
}

async fn publish(deps: &Deps, sender: &UserId, to: &Recipient, message: &Message) -> Result<(), SendError> {
    match to {
        Recipient::User(user) if user == sender => publish_to_user(deps, sender, user, message).await,
        Recipient::User(user) => publish_to_user(deps, sender, user, &message.clone().without_rno()).await,
        Recipient::Room(room) => publish_to_room(deps, sender, room, message).await,
    }
}

/// The sender is in the room, and if the broker does not know that any more, nobody is.
async fn publish_to_room(deps: &Deps, sender: &UserId, room: &RoomId, message: &Message) -> Result<(), SendError> {
    match deps.publisher.publish_to_room(room, message).await {
        Err(PublishError::NoRoute) => {
            // The sender may have left meanwhile.
            if !rooms::bind(&deps.rooms, sender, room).await? {
                return Err(SendError::NotInRoom);
            }
            deps.publisher.publish_to_room(room, message).await.map_err(SendError::Publish)
        }
        outcome => outcome.map_err(SendError::Publish),
    }
}

impl From<rooms::Unsettled> for SendError {
    fn from(error: rooms::Unsettled) -> Self {
        match error {
            rooms::Unsettled::Registry(error) => Self::Registry(error),
            rooms::Unsettled::Broker(error) => Self::Publish(PublishError::Unavailable(error)),
        }
    }
}

/// Who is away and has no backlog has no queue either: then it is asked for, and the message published again until it
/// is there.
async fn publish_to_user(deps: &Deps, sender: &UserId, to: &UserId, message: &Message) -> Result<(), SendError> {
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    loop {
        match deps.publisher.publish(to, message).await {
            Err(PublishError::NoRoute) if deps.strangers == Strangers::Queue => {
                if request_queue(deps, sender, to).await? == Requested::Asked {
                    sleep(wait).await;
                    wait *= 2;
                }
            }
            outcome => return outcome.map_err(SendError::Publish),
        }
        if began.elapsed() > FOR_A_QUEUE {
            let silent = Unavailable::new("consumer", "make a queue", "it does not answer");
            return Err(SendError::Publish(PublishError::Unavailable(silent)));
        }
    }
}

/// The backlog is noted first: nobody looks at a queue that somebody makes who dies before that.
async fn request_queue(deps: &Deps, sender: &UserId, to: &UserId) -> Result<Requested, SendError> {
    if let Err(error) = deps.backlogs.note(to, deps.clock.now().plus(FIRST_LOOK)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a backlog is not counted");
    }
    let requested = deps.queues.request(to, sender).await;
    requested.map_err(|error| SendError::Publish(PublishError::Unavailable(error)))
}
