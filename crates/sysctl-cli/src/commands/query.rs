//! `query`.

use std::io::Read;

use clap::Args as Words;
use serde_json::Value;
use sysctl_api::Envelope;

use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::output;

/// Words of `query`.
#[derive(Debug, Words)]
#[command(
    after_help = "Example: sysctl-cli query -X PUT -d '{\"action\": \"start\"}' --wait /1.0/instances/web1/state"
)]
pub(crate) struct Args {
    /// Path, with its query if it has one
    path: String,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    request: String,
    /// Body; - for standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    data: Option<String>,
    /// Wait for the operation that comes of it
    #[arg(short, long)]
    wait: bool,
    /// The whole answer as it came
    #[arg(long)]
    raw: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    if !args.path.starts_with('/') {
        return Err(Failure::usage(format!("{:?} is no path: it begins with a slash, like /1.0", args.path)));
    }
    let attempt = || format!("send {} {}", args.request, args.path);
    let data = match args.data.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).attempt(|| "read standard input".into())?;
            Some(bytes)
        }
        text => text.map(|text| text.as_bytes().to_vec()),
    };
    let answer = cx.client.query(&args.request, &args.path, data.as_deref()).await.attempt(attempt)?;
    if args.raw {
        return output::bytes(&answer.body);
    }
    let answer = answer.success(&args.path).attempt(attempt)?;
    let Ok(envelope) = serde_json::from_slice::<Envelope>(&answer.body) else {
        // No JSON, or none of this API: it is passed on as it is.
        return output::bytes(&answer.body);
    };
    let mut content = envelope.metadata;
    if args.wait && envelope.kind == "async" {
        let operation = serde_json::from_value(content);
        let operation = operation.map_err(|error| Failure::new(attempt(), error.to_string()))?;
        let done = cx.finish(&operation, attempt).await?;
        content = serde_json::to_value(done).unwrap_or(Value::Null);
    }
    match cx.format {
        None => output::bytes(output::json(&content)?.as_bytes()),
        Some(_) => cx.object(&content),
    }
}
