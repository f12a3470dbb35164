//! Remembers which `rno` a user has sent, and what became of it.

use async_trait::async_trait;
use kschat_core::{
    Timestamp,
    ports::{BoxError, Claim, ClaimOutcome, IdempotencyStore, Unavailable},
};
use kschat_protocol::{MessageId, UserId};
use redis::{Cmd, ExistenceCheck, SetExpiry, SetOptions};
use serde::{Deserialize, Serialize};

use super::{RedisRegistry, escape_key_part, millis, to_json, undecodable};

fn rno_key(user: &UserId, rno: &str) -> String {
    format!("ks:i:{{{}}}:{rno}", escape_key_part(user.as_str()))
}

/// A [`Claim`] as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredClaim {
    id: MessageId,
    time: u64,
    /// Hexadecimal, as other JSON readers may not support 128-bit numbers.
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    done: bool,
}

impl StoredClaim {
    fn new(claim: &Claim, done: bool) -> Self {
        let (id, time) = (claim.id.clone(), claim.time.millis());
        let content = claim.content.map(|content| format!("{content:032x}"));
        Self { id, time, digest: format!("{:032x}", claim.digest), content, done }
    }

    fn into_claimed(self) -> Result<ClaimOutcome, BoxError> {
        let digest = u128::from_str_radix(&self.digest, 16)?;
        let content = self.content.map(|content| u128::from_str_radix(&content, 16)).transpose()?;
        let claim = Claim { id: self.id, time: Timestamp::from_millis(self.time), digest, content };
        Ok(if self.done { ClaimOutcome::Done(claim) } else { ClaimOutcome::Pending(claim) })
    }
}

#[async_trait]
impl IdempotencyStore for RedisRegistry {
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<ClaimOutcome, Unavailable> {
        const ACTION: &str = "claim an rno";
        let stored = to_json(&StoredClaim::new(claim, false))?;
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(millis(self.rno_window)));
        let key = rno_key(user, rno);
        let mut pipeline = redis::pipe();
        pipeline.set_options(&key, stored, options).ignore().get(&key);
        let (found,): (String,) = self.run(ACTION, &pipeline).await?;
        let found: StoredClaim = serde_json::from_str(&found).map_err(undecodable)?;
        // A first attempt whose response was lost may have written our own claim.
        if found.id == claim.id && !found.done {
            return Ok(ClaimOutcome::New);
        }
        found.into_claimed().map_err(undecodable)
    }

    async fn mark_published(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable> {
        let stored = to_json(&StoredClaim::new(claim, true))?;
        let options = SetOptions::default().with_expiration(SetExpiry::PX(millis(self.rno_window)));
        self.run_one("mark an rno as published", Cmd::set_options(rno_key(user, rno), stored, options)).await
    }
}
