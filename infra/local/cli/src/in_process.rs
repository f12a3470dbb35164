//! A function backend without processes of its own.

use async_trait::async_trait;
use kschat_edge::functions::{Functions, InvokeError, MessageEvent, Reply};
use kschat_functions::{Event, connect, disconnect, send};
use kschat_protocol::ConnectionId;
use serde_json::Value;

/// The handlers of `kschat-functions`, called in this process.
#[derive(Clone)]
pub struct InProcess {
    /// Dependencies of `$connect`.
    pub connect: connect::Deps,
    /// Dependencies of `$disconnect`.
    pub disconnect: disconnect::Deps,
    /// Dependencies of `send` and `$default`.
    pub send: send::Deps,
}

#[async_trait]
impl Functions for InProcess {
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError> {
        let failed = |error: serde_json::Error| InvokeError::Failed(error.to_string());
        let event: Event = serde_json::from_value(event).map_err(failed)?;
        let response = match function {
            "connect" => connect::handle(&self.connect, event).await,
            "disconnect" => disconnect::handle(&self.disconnect, event).await,
            "send" => send::handle(&self.send, event).await,
            other => {
                return Err(InvokeError::Failed(format!(
                    "no function `{other}`: only connect, disconnect and send exist"
                )));
            }
        };
        serde_json::to_value(response).map_err(failed)
    }

    async fn handle_message(&self, function: &str, message: &MessageEvent) -> Result<Reply, InvokeError> {
        if function != "send" {
            return Reply::read(self.invoke(function, message.to_json()).await?);
        }
        let connection = ConnectionId::try_from(message.connection_id().to_owned());
        let connection = connection.map_err(|error| InvokeError::Failed(error.to_string()))?;
        Ok(Reply::new(200, send::handle_text(&self.send, &connection, message.body()).await))
    }
}
