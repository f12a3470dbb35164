//! Receipts in Redis.

use async_trait::async_trait;
use kschat_core::ports::{Receipt, ReceiptPositions, ReceiptStage, ReceiptStore, Unavailable};
use kschat_protocol::{MessageId, UserId};

use super::{RedisRegistry, escape_key_part, millis};

/// Moves a position forward, and never back. Idempotent.
const ADVANCE_POSITION_SCRIPT: &str = "local mark = redis.call('HGET', KEYS[1], ARGV[1]) \
    if not mark or mark < ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end \
    return redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// Receipts in one batch.
const RECEIPT_BATCH_SIZE: usize = 500;

fn receipts_key(author: &UserId, reader: &UserId) -> String {
    format!("ks:r:{{{}}}:{}", escape_key_part(author.as_str()), escape_key_part(reader.as_str()))
}

#[async_trait]
impl ReceiptStore for RedisRegistry {
    async fn record_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        for some in receipts.chunks(RECEIPT_BATCH_SIZE) {
            let mut pipeline = redis::pipe();
            for Receipt { author, reader, stage, message } in some {
                let field = match stage {
                    ReceiptStage::Delivered => "d",
                    ReceiptStage::Read => "r",
                };
                let key = receipts_key(author, reader);
                let eval = pipeline.cmd("EVAL").arg(ADVANCE_POSITION_SCRIPT).arg(1).arg(key);
                eval.arg(field).arg(message.as_str()).arg(millis(self.retention)).ignore();
            }
            let () = self.run("note receipts", &pipeline).await?;
        }
        Ok(())
    }

    async fn receipt_positions(
        &self,
        author: &UserId,
        readers: &[UserId],
    ) -> Result<Vec<ReceiptPositions>, Unavailable> {
        let mut pipeline = redis::pipe();
        for reader in readers {
            pipeline.cmd("HMGET").arg(receipts_key(author, reader)).arg("d").arg("r");
        }
        let found: Vec<(Option<String>, Option<String>)> = self.run("read receipts", &pipeline).await?;
        let marks = |(delivered, read): (Option<String>, Option<String>)| ReceiptPositions {
            delivered: delivered.map(MessageId::from),
            read: read.map(MessageId::from),
        };
        Ok(found.into_iter().map(marks).collect())
    }
}
