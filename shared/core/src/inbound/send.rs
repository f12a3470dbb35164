//! Handles sends.

use std::{sync::Arc, time::Duration};

use futures_util::future::join;
use kschat_protocol::{
    ConnectionId, ErrorCode, Message, MessageId, ProtocolVersion, Recipient, RoomId, SendFrame, SendReply, Status,
    UserId,
};
use tokio::time::{Instant, sleep};

use crate::{
    Clock, Session, Timestamp,
    backoff::Backoff,
    hash::stable_hash,
    inbound::caller::{AuthError, Caller},
    limits::NEW_BACKLOG_CHECK_DELAY,
    message_id::{self, SendContent},
    ports::{
        BacklogStore, Claim, ClaimOutcome, IdempotencyStore, MessageHash, PublishError, Publisher, QueueProvisioner,
        QueueRequestOutcome, SenderShares, Unavailable,
    },
    rooms, trace,
};

/// How long a send requests the recipient's queue. An owner that has not created it by then will not do so in time.
const RECIPIENT_QUEUE_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a send waits for a queue that an owner was asked to create: hundreds may be requested in the same second,
/// and a broker creates them one by one.
const RECIPIENT_QUEUE_TIMEOUT: Duration = Duration::from_secs(4);

/// Waits between two checks for the queue.
const RECIPIENT_QUEUE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(320) };

/// The policy for messages to users who have never connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownRecipientPolicy {
    /// Create a queue in which the message waits.
    #[default]
    Queue,
    /// Reply with [`ErrorCode::RecipientUnknown`].
    Reject,
}

/// The dependencies of [`send`].
#[derive(Clone)]
pub struct Deps {
    /// Recognizes repeated sends.
    pub idempotency: Arc<dyn IdempotencyStore>,
    /// Hashes that distinguish messages.
    pub hash: Arc<dyn MessageHash>,
    /// Publishes the message.
    pub publisher: Arc<dyn Publisher>,
    /// Creates missing queues.
    pub queues: Arc<dyn QueueProvisioner>,
    /// Stores which offline users have a backlog.
    pub backlogs: Arc<dyn BacklogStore>,
    /// Counts how much of each sender waits for a recipient; `None` without shares.
    pub shares: Option<Arc<dyn SenderShares>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The dependencies of rooms.
    pub rooms: rooms::Deps,
    /// The policy for unknown recipients.
    pub unknown_recipients: UnknownRecipientPolicy,
}

/// Why a well-formed send failed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The session or a limit refuses it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The frame names another user as its sender.
    #[error("uId does not match the session's user")]
    NotYou,
    /// The sender is not in the room.
    #[error("the sender is not in the room")]
    NotInRoom,
    /// The sender is in the room, but no longer allowed to be.
    #[error("the sender is no longer allowed in the room")]
    RoomForbidden,
    /// A v2 client must name its message.
    #[error("a version-2 send carries no rno")]
    NoRno,
    /// The `rno` stands for another message.
    #[error("the rno was already used for another message")]
    RnoReused,
    /// The room or the `rno` can't be looked up.
    #[error("the registry is unreachable")]
    Registry(#[source] Unavailable),
    /// The broker has not accepted it, or it is unknown whether it has.
    #[error("the message was not accepted")]
    Publish(#[source] PublishError),
}

impl SendError {
    /// The error code for the client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Auth(error) => error.code(),
            Self::NotYou => ErrorCode::UserMismatch,
            Self::NotInRoom | Self::RoomForbidden => ErrorCode::Forbidden,
            Self::NoRno => ErrorCode::InvalidField,
            Self::RnoReused => ErrorCode::RnoReused,
            Self::Registry(_) => ErrorCode::RegistryUnavailable,
            Self::Publish(error) => match error {
                PublishError::NoRoute => ErrorCode::RecipientUnknown,
                PublishError::Full => ErrorCode::BacklogFull,
                PublishError::Unavailable(_) => ErrorCode::BrokerUnavailable,
                PublishError::Unconfirmed(_) => ErrorCode::Unconfirmed,
            },
        }
    }
}

/// Publishes a message to the recipient's queue; the reply goes back to the connection.
pub async fn send(deps: &Deps, caller: &Caller, frame: SendFrame) -> SendReply {
    let accepted = accept(deps, caller, &frame).await;
    release_share(deps, caller, &frame, &accepted).await;
    match accepted {
        Ok((message, repeated)) => {
            tracing::debug!(repeated, "send accepted");
            SendReply::accepted(message, repeated)
        }
        Err(error) => {
            if error.code().is_server_fault() {
                tracing::warn!(er = error.code().number(), error = &error as &dyn std::error::Error, "send failed");
            } else {
                tracing::info!(er = error.code().number(), %error, "send refused");
            }
            match error {
                SendError::NoRno => SendReply::without_rno(frame),
                SendError::Auth(error) => SendReply::refused(error.code(), error.retry(), frame),
                error => SendReply::failed(error.code(), frame),
            }
        }
    }
}

/// Releases the sender's share if the message has certainly not entered the queue.
async fn release_share(deps: &Deps, caller: &Caller, frame: &SendFrame, accepted: &Result<(Message, bool), SendError>) {
    let is_in_queue = match accepted {
        Ok((_, repeated)) => !repeated,
        Err(error) => matches!(error, SendError::Publish(PublishError::Unconfirmed(_))),
    };
    let (Recipient::User(to), Some(shares)) = (&frame.recipient, &deps.shares) else { return };
    let sender = &caller.session.user;
    if is_in_queue || caller.share_weight == 0 || to == sender {
        return;
    }
    if let Err(error) = shares.release_share(to, sender, caller.share_weight).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "releasing the sender share of a failed send failed");
    }
}

async fn accept(deps: &Deps, caller: &Caller, frame: &SendFrame) -> Result<(Message, bool), SendError> {
    let now = deps.clock.now();
    let Caller { connection, session, .. } = caller;
    caller.authorize(now)?;
    // The token determines the sender; a frame that differs is refused.
    if frame.claimed_sender != session.user {
        return Err(SendError::NotYou);
    }
    check_room(deps, session, frame).await?;
    match session.version {
        ProtocolVersion::V1 => {
            let id = message_id::random();
            let message = message(frame, connection, id, now);
            publish(deps, &session.user, &frame.recipient, &message).await?;
            Ok((message, false))
        }
        ProtocolVersion::V2 => {
            let sender = Sender { user: &session.user, connection, has_others: caller.has_other_devices };
            accept_idempotent(deps, &sender, frame, now).await
        }
    }
}

/// A sender with a v2 connection.
struct Sender<'a> {
    user: &'a UserId,
    connection: &'a ConnectionId,
    /// Whether the user has other v2 connections, which show what the user sends.
    has_others: bool,
}

/// The sender in a room must be a member and still be allowed in: a renewed token may list fewer rooms than the one
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
    // The caller's span has a field for it: all later log lines name the message.
    tracing::Span::current().record("mId", id.as_str());
    // In a room the sender is one of the recipients.
    let is_in_room = matches!(frame.recipient, Recipient::Room(_));
    Message {
        from: frame.uid.clone(),
        to: frame.pid.clone(),
        msg: frame.msg.clone(),
        status: Status::Accepted,
        time: time.millis(),
        id,
        rno: frame.rno.clone(),
        trace: trace::outgoing_context(frame.trace.clone()),
        room: is_in_room.then(|| frame.pid.clone()),
        sender_connection: is_in_room.then(|| connection.clone()),
    }
}

/// Publishes at most one message for one `rno`, under one id, however often it is called.
///
/// Also returns whether the message was accepted before.
async fn accept_idempotent(
    deps: &Deps,
    sender: &Sender<'_>,
    frame: &SendFrame,
    now: Timestamp,
) -> Result<(Message, bool), SendError> {
    let rno = frame.rno.as_ref().ok_or(SendError::NoRno)?.to_string();
    let proposal = new_claim(deps, sender.user, &rno, frame, now);
    let claimed = deps.idempotency.claim(sender.user, &rno, &proposal).await.map_err(SendError::Registry)?;
    let (claim, done) = match claimed {
        ClaimOutcome::New => (proposal.clone(), false),
        ClaimOutcome::Pending(claim) => (claim, false),
        ClaimOutcome::Done(claim) => (claim, true),
    };
    if !is_same_message(&claim, &proposal) {
        return Err(SendError::RnoReused);
    }
    let message = message(frame, sender.connection, claim.id.clone(), claim.time);
    if !done {
        publish(deps, sender.user, &frame.recipient, &message).await?;
        join(mark_claim_published(deps, sender.user, &rno, &claim), publish_copy(deps, sender, &message)).await;
    }
    Ok((message, done))
}

fn new_claim(deps: &Deps, sender: &UserId, rno: &str, frame: &SendFrame, now: Timestamp) -> Claim {
    let (hash, msg) = (deps.hash.as_ref(), frame.msg.as_bytes());
    let content = SendContent { sender, recipient: &frame.recipient, rno, msg: &frame.msg }.digest(hash);
    let digest = match &frame.recipient {
        Recipient::User(user) => stable_hash(&[user.as_str().as_bytes(), msg]),
        Recipient::Room(room) => stable_hash(&[b"room", room.as_str().as_bytes(), msg]),
    };
    Claim {
        id: message_id::for_send(content, hash, now),
        time: now,
        digest,
        content: Some(message_id::first_u128(content)),
    }
}

/// Whether a claim is for the same message. It does not depend on the key, which may have been replaced meanwhile.
fn is_same_message(claim: &Claim, proposal: &Claim) -> bool {
    // Written by a function of the previous release.
    let is_former = claim.content.is_none();
    if is_former { claim.digest == proposal.digest } else { claim.content == proposal.content }
}

/// The message is accepted whether or not this succeeds: a repetition would only publish its id again.
async fn mark_claim_published(deps: &Deps, user: &UserId, rno: &str, claim: &Claim) {
    if let Err(error) = deps.idempotency.mark_published(user, rno, claim).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "marking an accepted send as published failed");
    }
}

/// Publishes a copy for the user's other devices. The message is accepted whether or not that succeeds.
async fn publish_copy(deps: &Deps, sender: &Sender<'_>, message: &Message) {
    // Messages to oneself or to a room reach them anyway.
    if message.room.is_some() || !sender.has_others || !message.is_own_of(sender.user) {
        return;
    }
    let copy = Message { sender_connection: Some(sender.connection.clone()), ..message.clone() };
    // The user may have just connected, so the queue may be about to be created. The sender waits for the copy, too, so
    // it waits for the shorter time only.
    let copied = publish_to_user(deps, sender.user, sender.user, &copy, RECIPIENT_QUEUE_REQUEST_TIMEOUT);
    if let Err(error) = copied.await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "publishing the copy for the sender's other devices failed"
        );
    }
}

async fn publish(deps: &Deps, sender: &UserId, to: &Recipient, message: &Message) -> Result<(), SendError> {
    match to {
        Recipient::User(user) if user == sender => {
            publish_to_user(deps, sender, user, message, RECIPIENT_QUEUE_TIMEOUT).await
        }
        Recipient::User(user) => {
            publish_to_user(deps, sender, user, &message.clone().without_rno(), RECIPIENT_QUEUE_TIMEOUT).await
        }
        Recipient::Room(room) => publish_to_room(deps, sender, room, message).await,
    }
}

/// Publishes to a room. The sender is in the room, so without a route the broker has lost the bindings.
async fn publish_to_room(deps: &Deps, sender: &UserId, room: &RoomId, message: &Message) -> Result<(), SendError> {
    match deps.publisher.publish_to_room(room, message).await {
        Err(PublishError::NoRoute) => {
            // The sender may have left meanwhile.
            if !rooms::ensure_bound(&deps.rooms, sender, room).await? {
                return Err(SendError::NotInRoom);
            }
            deps.publisher.publish_to_room(room, message).await.map_err(SendError::Publish)
        }
        outcome => outcome.map_err(SendError::Publish),
    }
}

impl From<rooms::BindingError> for SendError {
    fn from(error: rooms::BindingError) -> Self {
        match error {
            rooms::BindingError::Registry(error) => Self::Registry(error),
            rooms::BindingError::Broker(error) => Self::Publish(PublishError::Unavailable(error)),
        }
    }
}

/// Publishes to a user's queue. An offline user without a backlog has no queue: then it is requested, and the publish
/// repeated until the queue exists.
async fn publish_to_user(
    deps: &Deps,
    sender: &UserId,
    to: &UserId,
    message: &Message,
    owner_timeout: Duration,
) -> Result<(), SendError> {
    let began = Instant::now();
    let (mut timeout, mut looks) = (RECIPIENT_QUEUE_REQUEST_TIMEOUT, 0);
    loop {
        match deps.publisher.publish(to, message).await {
            Err(PublishError::NoRoute) if deps.unknown_recipients == UnknownRecipientPolicy::Queue => {}
            outcome => return outcome.map_err(SendError::Publish),
        }
        if began.elapsed() > timeout {
            let silent = Unavailable::new("consumer", "create a queue", "it did not respond in time");
            return Err(SendError::Publish(PublishError::Unavailable(silent)));
        }
        // After the request timeout nothing is requested or created here: the owner may be removing the queue by then.
        if began.elapsed() <= RECIPIENT_QUEUE_REQUEST_TIMEOUT {
            match request_queue(deps, sender, to).await? {
                QueueRequestOutcome::Created => continue,
                QueueRequestOutcome::Pending { has_owner } => {
                    timeout = if has_owner { owner_timeout } else { RECIPIENT_QUEUE_REQUEST_TIMEOUT }
                }
            }
        }
        sleep(RECIPIENT_QUEUE_BACKOFF.longest_wait(looks)).await;
        looks += 1;
    }
}

/// The backlog is scheduled first: otherwise a queue whose creator dies in between would never be checked.
async fn request_queue(deps: &Deps, sender: &UserId, to: &UserId) -> Result<QueueRequestOutcome, SendError> {
    if let Err(error) = deps.backlogs.schedule_check(to, deps.clock.now().plus(NEW_BACKLOG_CHECK_DELAY)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "recording a backlog failed");
    }
    let requested = deps.queues.request_queue(to, sender).await;
    requested.map_err(|error| SendError::Publish(PublishError::Unavailable(error)))
}
