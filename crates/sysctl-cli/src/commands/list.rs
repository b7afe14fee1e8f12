//! `list`.

use clap::Args as Words;
use sysctl_api::InstanceFull;
use sysctl_client::ListOptions;

use super::filter::Filter;
use crate::context::Context;
use crate::failure::{Attempt, Failure, Result};
use crate::output::{Cell, Table};

/// Words of `list`.
#[derive(Debug, Words)]
pub(crate) struct Args {
    /// Beginnings of names, and KEY=VALUE like status=running or limits.cpu=2
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Of every project
    #[arg(long)]
    all_projects: bool,
    /// Columns of the table, a letter each
    #[arg(short, long, value_name = "LETTERS", long_help = help())]
    columns: Option<String>,
}

/// A column.
struct Column {
    letter: char,
    heading: &'static str,
    /// It needs the state of each instance.
    state: bool,
    cell: fn(&InstanceFull) -> Cell,
}

const COLUMNS: [Column; 16] = [
    Column { letter: 'n', heading: "NAME", state: false, cell: |i| Cell::from(&i.instance.name) },
    Column { letter: 's', heading: "STATE", state: false, cell: |i| i.instance.status.to_uppercase().into() },
    Column { letter: '4', heading: "IPV4", state: true, cell: |i| addresses(i, "inet").into() },
    Column { letter: '6', heading: "IPV6", state: true, cell: |i| addresses(i, "inet6").into() },
    Column { letter: 'm', heading: "MEMORY", state: true, cell: |i| memory(i).into() },
    Column { letter: 'N', heading: "PROCESSES", state: true, cell: |i| state(i, |s| s.processes.to_string()).into() },
    Column { letter: 'u', heading: "CPU", state: true, cell: |i| state(i, |s| seconds(s.cpu.usage)).into() },
    Column { letter: 'p', heading: "PID", state: true, cell: |i| state(i, |s| s.pid.to_string()).into() },
    Column { letter: 'P', heading: "PROFILES", state: false, cell: |i| i.instance.profiles.clone().into() },
    Column { letter: 'i', heading: "IMAGE", state: false, cell: |i| image(i).into() },
    Column { letter: 'f', heading: "BASE IMAGE", state: false, cell: |i| base_image(i).into() },
    Column { letter: 'c', heading: "CREATED", state: false, cell: |i| time(&i.instance.created_at).into() },
    Column { letter: 'l', heading: "LAST USED", state: false, cell: |i| time(&i.instance.last_used_at).into() },
    Column { letter: 'a', heading: "ARCHITECTURE", state: false, cell: |i| Cell::from(&i.instance.architecture) },
    Column { letter: 'd', heading: "DESCRIPTION", state: false, cell: |i| Cell::from(&i.instance.description) },
    Column { letter: 'e', heading: "PROJECT", state: false, cell: |i| Cell::from(&i.instance.project) },
];

fn help() -> String {
    let columns = COLUMNS.iter().map(|column| format!("  {}  {}", column.letter, column.heading));
    format!("Columns of the table, a letter each (default: ns46mN):\n{}", columns.collect::<Vec<_>>().join("\n"))
}

fn columns(letters: &str) -> Result<Vec<&'static Column>> {
    let find = |letter: char| {
        let unknown = || Failure::usage(format!("no column has the letter {letter:?}; sysctl-cli list --help has all"));
        COLUMNS.iter().find(|column| column.letter == letter).ok_or_else(unknown)
    };
    letters.chars().filter(|c| *c != ',').map(find).collect()
}

pub(crate) async fn run(cx: &Context, args: Args) -> Result {
    let default = if args.all_projects { "ens46mN" } else { "ns46mN" };
    let columns = columns(args.columns.as_deref().unwrap_or(default))?;
    let filter = Filter::parse(&args.filter).map_err(Failure::usage)?;
    let options = ListOptions { filter: filter.query.clone(), all_projects: args.all_projects };
    let whole = columns.iter().any(|column| column.state) || cx.format.is_some_and(|format| format.is_whole());
    let attempt = || "list instances".to_owned();
    let mut instances = if whole {
        cx.client.get_instances_full(&options).await.attempt(attempt)?
    } else {
        let instances = cx.client.get_instances(&options).await.attempt(attempt)?;
        instances.into_iter().map(|instance| InstanceFull { instance, ..InstanceFull::default() }).collect()
    };
    instances.retain(|full| filter.has(&full.instance.name));
    cx.list(&instances, || {
        let mut table = Table::new(columns.iter().map(|column| column.heading).collect::<Vec<_>>());
        for instance in &instances {
            table.row(columns.iter().map(|column| (column.cell)(instance)).collect::<Vec<_>>());
        }
        table
    })
}

/// Something of the state of an instance that runs.
fn state(full: &InstanceFull, get: impl Fn(&sysctl_api::InstanceState) -> String) -> String {
    full.state.as_ref().filter(|state| state.pid > 0).map(get).unwrap_or_default()
}

/// Addresses that others can reach it at, with their links.
pub(crate) fn addresses(full: &InstanceFull, family: &str) -> Vec<String> {
    let links = full.state.iter().filter_map(|state| state.network.as_ref()).flatten();
    let mut found = Vec::new();
    for (link, network) in links.filter(|(_, network)| network.kind != "loopback") {
        let of_family = network.addresses.iter().filter(|a| a.family == family && a.scope == "global");
        found.extend(of_family.map(|a| format!("{} ({link})", a.address)));
    }
    found
}

fn memory(full: &InstanceFull) -> String {
    state(full, |state| bytes(state.memory.usage))
}

fn image(full: &InstanceFull) -> String {
    let key = |key: &str| full.instance.expanded_config.get(key).map(String::as_str).unwrap_or_default();
    match key("image.description") {
        "" => format!("{} {}", key("image.os"), key("image.release")).trim().to_owned(),
        text => text.to_owned(),
    }
}

fn base_image(full: &InstanceFull) -> String {
    let fingerprint = full.instance.expanded_config.get("volatile.base_image");
    fingerprint.map(|fingerprint| fingerprint.chars().take(12).collect()).unwrap_or_default()
}

/// Bytes for people.
pub(crate) fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

/// Nanoseconds of CPU time for people.
pub(crate) fn seconds(nanoseconds: i64) -> String {
    format!("{:.2} s", nanoseconds as f64 / 1e9)
}

/// A time for people; nothing for never.
pub(crate) fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) if text == sysctl_api::NEVER => String::new(),
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_chosen_by_letters() {
        let headings = |letters| columns(letters).map(|found| found.iter().map(|c| c.heading).collect::<Vec<_>>());
        assert_eq!(headings("ns,4").ok(), Some(vec!["NAME", "STATE", "IPV4"]));
        assert_eq!(headings("nx").map_err(|failure| failure.code()), Err(2));
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_shown() {
        let address = |family: &str, address: &str, scope: &str| json!({"family": family, "address": address, "netmask": "24", "scope": scope});
        let full: InstanceFull = serde_json::from_value(json!({"name": "web1", "state": {"pid": 7, "network": {
            "eth0": {"type": "broadcast", "addresses": [address("inet", "10.0.0.2", "global"), address("inet6", "fe80::1", "link")]},
            "lo": {"type": "loopback", "addresses": [address("inet", "127.0.0.1", "local")]},
        }}}))
        .expect("an instance");
        assert_eq!(addresses(&full, "inet"), ["10.0.0.2 (eth0)"]);
        assert!(addresses(&full, "inet6").is_empty());
    }

    #[test]
    fn numbers_and_times_are_made_for_people() {
        assert_eq!([bytes(0), bytes(1023), bytes(1 << 20), bytes(3 << 29)], ["0 B", "1023 B", "1.00 MiB", "1.50 GiB"]);
        assert_eq!(seconds(1_500_000_000), "1.50 s");
        assert_eq!(time("2026-11-23T10:11:12.5Z"), "2026-11-23 10:11 UTC");
        assert_eq!((time(sysctl_api::NEVER).as_str(), time("x").as_str()), ("", "x"));
    }
}
