//! Figures in the text form of OpenMetrics, under the names that stock Incus uses, and ours beside them.

use std::fmt::Write;
use std::time::Duration;

use engine::Usage;
use model::Gauges;
use model::gauges::Stalls;

/// A family of figures: its name, what it is, and its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Family(&'static str, &'static str, &'static str);

/// Everything about one running instance.
#[derive(Debug)]
pub(crate) struct Sample<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its project.
    pub(crate) project: &'a str,
    /// What its groups say.
    pub(crate) gauges: Gauges,
    /// What its links say; nothing when it ended meanwhile.
    pub(crate) usage: Option<Usage>,
    /// Bytes of memory that it may have.
    pub(crate) memory_bytes: u64,
    /// CPUs that it runs on.
    pub(crate) cpus: usize,
}

/// Figures, each family with all its lines together, as the form demands.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    families: Vec<(Family, String)>,
}

const CPU: Family = Family("incus_cpu_seconds_total", "The total number of CPU time used in seconds.", "counter");
const CPUS: Family = Family("incus_cpu_effective_total", "The total number of effective CPUs.", "gauge");
const MEMORY: Family = Family("incus_memory_MemTotal_bytes", "The amount of memory that it may have.", "gauge");
const FREE: Family = Family("incus_memory_MemFree_bytes", "The amount of it that is not used.", "gauge");
const AVAILABLE: Family = Family("incus_memory_MemAvailable_bytes", "The amount of it that is to be had.", "gauge");
const SWAP: Family = Family("incus_memory_Swap_bytes", "The amount of used swap memory.", "gauge");
const KILLS: Family = Family("incus_memory_OOM_kills_total", "The number of out of memory kills.", "counter");
const PROCESSES: Family = Family("incus_procs_total", "The number of running processes.", "gauge");
const INSTANCES: Family = Family("sysctl_instances", "The number of instances.", "gauge");
const UPTIME: Family = Family("incus_uptime_seconds", "How long the daemon has been up.", "counter");
const OPERATIONS: Family = Family("incus_operations_total", "The number of running operations.", "gauge");
const PRESSURE: Family =
    Family("sysctl_pressure_seconds_total", "Time in which some or all processes waited for it.", "counter");
const HITS: Family = Family("sysctl_limit_hits_total", "How often a limit was met.", "counter");
const THROTTLED: Family = Family("sysctl_cpu_throttled_seconds_total", "Time held back by the CPU quota.", "counter");
/// In the order of a link's counters.
const NETWORK: [Family; 8] = [
    Family("incus_network_receive_bytes_total", "The amount of received bytes on an interface.", "counter"),
    Family("incus_network_transmit_bytes_total", "The amount of transmitted bytes on an interface.", "counter"),
    Family("incus_network_receive_packets_total", "The amount of received packets on an interface.", "counter"),
    Family("incus_network_transmit_packets_total", "The amount of transmitted packets on an interface.", "counter"),
    Family("incus_network_receive_errs_total", "The amount of received errors on an interface.", "counter"),
    Family("incus_network_transmit_errs_total", "The amount of transmitted errors on an interface.", "counter"),
    Family("incus_network_receive_drop_total", "The amount of received dropped bytes on an interface.", "counter"),
    Family("incus_network_transmit_drop_total", "The amount of transmitted dropped bytes on an interface.", "counter"),
];

impl Metrics {
    /// Adds a figure.
    fn add(&mut self, family: Family, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let at = self.families.iter().position(|(known, _)| *known == family);
        let at = at.unwrap_or_else(|| {
            self.families.push((family, String::new()));
            self.families.len() - 1
        });
        let (_, lines) = &mut self.families[at];
        // To a text that grows nothing fails.
        lines.push_str(family.0);
        for (n, (label, value)) in labels.iter().enumerate() {
            let _ = write!(lines, "{}{label}=\"{}\"", if n == 0 { "{" } else { "," }, escaped(value));
        }
        let _ = writeln!(lines, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// How many instances a project has.
    pub(crate) fn instances(&mut self, project: &str, count: usize) {
        self.add(INSTANCES, &[("project", project), ("type", "container")], count);
    }

    /// How many operations run.
    pub(crate) fn operations(&mut self, count: usize) {
        self.add(OPERATIONS, &[], count);
    }

    /// How long the daemon has been up.
    pub(crate) fn uptime(&mut self, uptime: Duration) {
        self.add(UPTIME, &[], seconds(uptime.as_millis() as u64, 1000));
    }

    /// Everything about a running instance.
    pub(crate) fn instance(&mut self, sample: &Sample<'_>) {
        let own = [("name", sample.name), ("project", sample.project), ("type", "container")];
        let with = |more: &[(&'static str, &'static str)]| [more, own.as_slice()].concat();
        let (usage, hits) = (sample.gauges.usage, sample.gauges.hits);
        // All CPUs together, and so without the label of one.
        for (mode, ns) in [("system", usage.cpu_system_ns), ("user", usage.cpu_user_ns)] {
            self.add(CPU, &with(&[("mode", mode)]), seconds(ns, 1_000_000_000));
        }
        self.add(CPUS, &own, sample.cpus);
        let free = sample.memory_bytes.saturating_sub(usage.memory_bytes);
        self.add(MEMORY, &own, sample.memory_bytes);
        self.add(FREE, &own, free);
        self.add(AVAILABLE, &own, free);
        self.add(SWAP, &own, usage.swap_bytes);
        self.add(KILLS, &own, hits.oom_kills);
        self.add(PROCESSES, &own, usage.processes);
        for (limit, count) in hits.by_limit() {
            self.add(HITS, &with(&[("limit", limit)]), count);
        }
        self.add(THROTTLED, &own, seconds(hits.cpu_throttled_us, 1_000_000));
        if let Some(pressure) = sample.gauges.pressure {
            for (resource, stalls) in [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)] {
                let Stalls { some, full } = stalls;
                for (share, stall) in [("some", some), ("full", full)] {
                    let labels = with(&[("resource", resource), ("share", share)]);
                    self.add(PRESSURE, &labels, seconds(stall.total_us, 1_000_000));
                }
            }
        }
        for link in sample.usage.iter().flat_map(|usage| &usage.links) {
            let labels = [[("device", link.name.as_str())].as_slice(), &own].concat();
            for (family, count) in NETWORK.into_iter().zip(link.counters) {
                self.add(family, &labels, count);
            }
        }
    }

    /// The whole text.
    pub(crate) fn text(mut self) -> String {
        self.families.sort_by_key(|(family, _)| *family);
        let mut text = String::new();
        for (Family(name, help, kind), lines) in &self.families {
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
        text.push_str("# EOF\n");
        text
    }
}

/// A number of parts of a second in seconds, without loss.
fn seconds(parts: u64, in_a_second: u64) -> String {
    let digits = in_a_second.ilog10() as usize;
    format!("{}.{:0digits$}", parts / in_a_second, parts % in_a_second)
}

/// A label's value, in which a few characters mean something.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use model::{GroupUsage, Hits};

    use super::*;

    fn sample(name: &str) -> Sample<'_> {
        let usage = GroupUsage { cpu_user_ns: 1_500_000_007, memory_bytes: 40, processes: 3, ..GroupUsage::default() };
        let gauges = Gauges { usage, hits: Hits { oom_kills: 2, ..Hits::default() }, ..Gauges::default() };
        Sample { name, project: "default", gauges, usage: None, memory_bytes: 100, cpus: 4 }
    }

    #[test]
    fn figures_of_a_family_stand_together_under_its_name() {
        let mut metrics = Metrics::default();
        metrics.instance(&sample("web1"));
        metrics.instance(&sample("we\"b2"));
        metrics.instances("default", 2);
        metrics.operations(1);
        metrics.uptime(Duration::from_millis(2500));
        let text = metrics.text();
        let own = r#"name="web1",project="default",type="container""#;
        assert!(text.contains(&format!(r#"incus_cpu_seconds_total{{mode="user",{own}}} 1.500000007"#)), "{text}");
        assert!(text.contains(&format!("incus_memory_MemFree_bytes{{{own}}} 60\n")), "{text}");
        assert!(text.contains(r#"incus_procs_total{name="we\"b2","#) && text.ends_with("# EOF\n"), "{text}");
        assert!(
            text.contains("\nincus_operations_total 1\n") && text.contains("\nincus_uptime_seconds 2.500\n"),
            "{text}"
        );
        let mut seen = std::collections::BTreeSet::new();
        let mut now = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let family = line.split(['{', ' ']).next().expect("a name");
            assert!(family == now || seen.insert(family), "{family} is torn apart");
            now = family;
        }
    }

    /// What is told. Those that begin with `incus_` are on Incus' own list (`internal/server/metrics/types.go`); its others are
    /// about what groups do not count, disks, file systems and its own runtime.
    const TOLD: [&str; 21] = [
        "incus_cpu_effective_total",
        "incus_cpu_seconds_total",
        "incus_memory_MemAvailable_bytes",
        "incus_memory_MemFree_bytes",
        "incus_memory_MemTotal_bytes",
        "incus_memory_OOM_kills_total",
        "incus_memory_Swap_bytes",
        "incus_network_receive_bytes_total",
        "incus_network_receive_drop_total",
        "incus_network_receive_errs_total",
        "incus_network_receive_packets_total",
        "incus_network_transmit_bytes_total",
        "incus_network_transmit_drop_total",
        "incus_network_transmit_errs_total",
        "incus_network_transmit_packets_total",
        "incus_operations_total",
        "incus_procs_total",
        "incus_uptime_seconds",
        "sysctl_cpu_throttled_seconds_total",
        "sysctl_instances",
        "sysctl_limit_hits_total",
    ];

    #[test]
    fn names_that_begin_like_those_of_incus_are_names_of_incus() {
        let mut metrics = Metrics::default();
        let link = engine::LinkUsage { name: "eth0".into(), ..engine::LinkUsage::default() };
        let usage = Usage { links: vec![link], ..Usage::default() };
        metrics.instance(&Sample { usage: Some(usage), ..sample("web1") });
        metrics.instances("default", 1);
        metrics.operations(0);
        metrics.uptime(Duration::ZERO);
        let text = metrics.text();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        assert_eq!(names.collect::<Vec<_>>(), TOLD);
    }
}
