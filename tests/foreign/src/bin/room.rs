//! All routes of the room: echoes messages through the connections API, in capitals.

use aws_sdk_apigatewaymanagement::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    primitives::Blob,
};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

/// The connections API of the stage that the event came from.
fn api(context: &Value) -> Client {
    let endpoint = format!("http://{}/{}", text(&context["domainName"]), text(&context["stage"]));
    let config = aws_sdk_apigatewaymanagement::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn room(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let event = event.payload;
    let context = &event["requestContext"];
    let body: Value = serde_json::from_str(text(&event["body"])).unwrap_or_default();
    match text(&context["routeKey"]) {
        "say" => {
            let heard = format!("{}, in {}", text(&body["text"]).to_uppercase(), text(&context["authorizer"]["room"]));
            let push = api(context).post_to_connection().connection_id(text(&context["connectionId"]));
            push.data(Blob::new(heard)).send().await?;
            Ok(json!({ "statusCode": 200, "body": "nobody sees this" }))
        }
        "count" => Ok(json!({ "statusCode": 200, "body": text(&body["text"]).len().to_string() })),
        "boom" => Err("the room is on fire".into()),
        _ => Ok(json!({ "statusCode": 200 })),
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(service_fn(room)).await
}
