//! The Socket.IO clients of npm, unchanged, against the very functions and consumer that raw clients have.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use kschat_tests::{
    client::Client,
    socketio::{Generation, SocketIo},
    stack::{connect, embedded, somebody},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_guide_chat_with_one_another() {
    let stack = embedded().await;
    for generation in [Generation::Four, Generation::Two] {
        let (a, b) = (somebody("alice"), somebody("bob"));
        let mut alice = SocketIo::connected(generation, &stack.page_url(), &a).await;
        let mut bob = SocketIo::connected(generation, &stack.page_url(), &b).await;
        assert_eq!(alice.send(&b, "hello").await, json!({ "RESPONSE": "Send Emit is success.", "uId": a }));
        let reply = alice.next("RESPSEND").await["data"].clone();
        assert_eq!((&reply["RC"], &reply["ER"], &reply["STATUS"]), (&json!(1), &json!(0), &json!(1)));
        assert_eq!((&reply["SID"], &reply["RID"], &reply["RANDOMNO"]), (&json!(a), &json!(b), &json!(42)));
        let heard = bob.next("RESPRECEIVER").await;
        assert_eq!(
            (&heard["data"]["RC"], &heard["data"]["ER"], &heard["callback"]),
            (&json!(1), &json!(0), &json!("function"))
        );
        let item = &heard["data"]["MSG"][0];
        assert_eq!((&item["uId"], &item["pId"], &item["msg"]), (&json!(a), &json!(b), &json!("hello")));
        assert_eq!((&item["rStatus"], &item["msgTime"]), (&json!(1), &reply["MSGTIME"]));
        // Without a callback the reply is the answer.
        let message = bob.message(&a, "hello to you");
        bob.tell(json!({ "emit": ["Send", message] })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 0);
        assert_eq!(alice.texts(1).await, ["hello to you"]);
    }
    stack.stop().await;
}
