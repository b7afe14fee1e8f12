//! `info`.

use std::fmt::Write;

use clap::Args as Words;
use sysctl_api::InstanceFull;

use super::list::{addresses, bytes, seconds, time};
use crate::context::Context;
use crate::failure::{Attempt, Result};
use crate::output::{self, escape};

/// Words of `info`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Name of an instance; the server when it is left out
    name: Option<String>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let Some(name) = args.name else {
        let server = cx.client.get_server().await.attempt(|| "look at the server".into())?;
        return cx.object(&server.value);
    };
    let full = cx.client.get_instance_full(&name).await.attempt(|| format!("look at instance {name:?}"))?;
    match cx.format {
        None => output::text(&about(&full)),
        Some(_) => cx.object(&full),
    }
}

/// An instance for people. What others have written stays on its line.
fn about(full: &InstanceFull) -> String {
    let instance = &full.instance;
    let mut text = String::new();
    let mut say = |key: &str, value: &str| {
        if !value.is_empty() {
            let written = writeln!(text, "{:<14}{}", format!("{key}:"), escape::inline(value));
            debug_assert!(written.is_ok(), "strings take everything");
        }
    };
    let key = |key: &str| instance.expanded_config.get(key).map(String::as_str).unwrap_or_default();
    say("Name", &instance.name);
    say("Project", &instance.project);
    say("State", &instance.status);
    say("Description", &instance.description);
    say("Image", key("image.description"));
    say("Base image", key("volatile.base_image"));
    say("Architecture", &instance.architecture);
    say("Profiles", &instance.profiles.join(", "));
    say("Ephemeral", if instance.ephemeral { "yes" } else { "" });
    say("Created", &time(&instance.created_at));
    say("Last used", &time(&instance.last_used_at));
    let Some(state) = full.state.as_ref().filter(|state| state.pid > 0) else { return text };
    say("Started", &time(&state.started_at));
    say("PID", &state.pid.to_string());
    say("Processes", &state.processes.to_string());
    say("CPU", &seconds(state.cpu.usage));
    let limit = if state.memory.total > 0 { format!(" of {}", bytes(state.memory.total)) } else { String::new() };
    say("Memory", &format!("{}{limit}, at most {}", bytes(state.memory.usage), bytes(state.memory.usage_peak)));
    say("IPv4", &addresses(full, "inet").join(", "));
    say("IPv6", &addresses(full, "inet6").join(", "));
    for (link, network) in state.network.iter().flatten().filter(|(_, network)| network.kind != "loopback") {
        let counters = &network.counters;
        let (received, sent) = (bytes(counters.bytes_received), bytes(counters.bytes_sent));
        say("Link", &format!("{link} {} {}, {received} received, {sent} sent", network.hwaddr, network.state));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stopped_instance_has_no_numbers_and_lines_stay_lines() {
        let full = serde_json::from_value(json!({
            "name": "web1", "project": "default", "status": "Stopped", "profiles": ["default"],
            "description": "a\u{1b}[2J\nb", "created_at": "2026-11-23T10:11:12Z", "state": {"pid": 0},
        }))
        .expect("an instance");
        let expected = "Name:         web1\nProject:      default\nState:        Stopped\nDescription:  a\\u{1b}[2J\\nb\n\
            Profiles:     default\nCreated:      2026-11-23 10:11 UTC\n";
        assert_eq!(about(&full), expected);
    }
}
