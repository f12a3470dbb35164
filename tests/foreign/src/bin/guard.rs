//! The authorizer: accepts clients with the key.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

async fn guard(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    let effect = if event["queryStringParameters"]["key"] == "sesame" { "Allow" } else { "Deny" };
    let statement = json!({ "Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"] });
    Ok(json!({
        "principalId": "somebody",
        "policyDocument": { "Version": "2012-10-17", "Statement": [statement] },
        "context": { "room": "the blue one" },
    }))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(guard)).await
}
