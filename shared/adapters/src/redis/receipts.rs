//! Receipts in Redis.

use async_trait::async_trait;
use kschat_core::ports::{Marks, Receipt, Receipts, Stage, Unavailable};
use kschat_protocol::{MessageId, UserId};

use super::{RedisRegistry, millis, part};

/// Moves a mark forward, and never back; once more it does nothing.
const MOVE: &str = "local mark = redis.call('HGET', KEYS[1], ARGV[1]) \
    if not mark or mark < ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end \
    return redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// Receipts that are noted in one go.
const AT_ONCE: usize = 500;

fn receipts_key(author: &UserId, reader: &UserId) -> String {
    format!("ks:r:{{{}}}:{}", part(author.as_str()), part(reader.as_str()))
}

#[async_trait]
impl Receipts for RedisRegistry {
    async fn note_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        for some in receipts.chunks(AT_ONCE) {
            let mut pipeline = redis::pipe();
            for Receipt { author, reader, stage, message } in some {
                let field = match stage {
                    Stage::Delivered => "d",
                    Stage::Read => "r",
                };
                let key = receipts_key(author, reader);
                let eval = pipeline.cmd("EVAL").arg(MOVE).arg(1).arg(key);
                eval.arg(field).arg(message.as_str()).arg(millis(self.retention)).ignore();
            }
            let () = self.run("note receipts", &pipeline).await?;
        }
        Ok(())
    }

    async fn marks(&self, author: &UserId, readers: &[UserId]) -> Result<Vec<Marks>, Unavailable> {
        let mut pipeline = redis::pipe();
        for reader in readers {
            pipeline.cmd("HMGET").arg(receipts_key(author, reader)).arg("d").arg("r");
        }
        let found: Vec<(Option<String>, Option<String>)> = self.run("read receipts", &pipeline).await?;
        let marks = |(delivered, read): (Option<String>, Option<String>)| Marks {
            delivered: delivered.map(MessageId::from),
            read: read.map(MessageId::from),
        };
        Ok(found.into_iter().map(marks).collect())
    }
}
