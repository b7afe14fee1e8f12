//! The part of the script that is about control groups: limits, written to the files that the daemon writes.

use std::fmt::Write as _;

use model::knob::{V1_RATES, shares};
use model::{Knob, Setting, Settings, V1Hierarchy};

use super::{Whereabouts, quoted};

/// Its groups, with their limits, and its first process in them.
pub(super) fn group(at: &Whereabouts) -> String {
    let mut text = r#"
# 5. Its group: limits are the host's, what is below is its own.
group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)/by-hand-$name
mkdir "$group" "$group/payload"
chown "$base:$base" "$group/payload" "$group/payload/cgroup.procs" "$group/payload/cgroup.subtree_control" \
    "$group/payload/cgroup.threads"
unlimited=
limit() { if [ -e "$group/$1" ]; then echo "$2" >"$group/$1"; else unlimited="$unlimited $1"; fi; }
"#
    .to_owned();
    if !at.v1.is_empty() {
        text.push_str(
            r#"# A group of cgroup v1 beside it, in the hierarchy $1. A new one has no CPU and no memory node.
limit_v1() {
    own=$1/by-hand-$name
    if [ ! -d "$own" ]; then
        mkdir "$own"
        limited="$limited $own"
        for file in cpuset.cpus cpuset.mems; do [ ! -e "$own/$file" ] || cat "$1/$file" >"$own/$file"; done
    fi
    echo "$3" >"$own/$2"
}
"#,
        );
    }
    // What a new group is set to anyway is no limit.
    for (knob, setting) in at.settings.iter().filter(|(knob, setting)| **setting != knob.initial()) {
        match v1(*knob, &at.v1) {
            Some((root, file)) => {
                for (file, value) in lines(*knob, file, setting, &at.settings) {
                    let _ = writeln!(text, "limit_v1 {} {file} {}", quoted(root), quoted(&value));
                }
            }
            None => {
                let _ = writeln!(text, "limit {} {}", knob.file(), quoted(&setting.to_string()));
            }
        }
    }
    text.push_str(
        r#"[ -z "$unlimited" ] || echo "not limited in $group, which has no such files (some are programs):$unlimited" >&2
for own in "$group/payload" $limited; do echo "$init" >"$own/cgroup.procs"; done
"#,
    );
    text
}

/// Where cgroup v1 has a knob on this host: the hierarchy, and the file.
fn v1(knob: Knob, hierarchies: &[V1Hierarchy]) -> Option<(&str, &'static str)> {
    let (controller, file) = knob.v1()?;
    let hierarchy = hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))?;
    Some((&hierarchy.root, file))
}

/// What is written to which files of cgroup v1, in their order.
fn lines(knob: Knob, file: &'static str, setting: &Setting, all: &Settings) -> Vec<(&'static str, String)> {
    match (knob, setting) {
        (Knob::CpuMax, Setting::Quota(quota, period)) => {
            vec![("cpu.cfs_period_us", period.to_string()), (file, quota.to_string())]
        }
        (Knob::CpuWeight, Setting::Number(weight)) => vec![(file, shares(*weight).to_string())],
        (Knob::CpuUclampMin | Knob::CpuUclampMax, Setting::Number(n)) => {
            vec![(file, format!("{}.{:02}", n / 100, n % 100))]
        }
        // Memory and swap are counted together there; memory comes before swap in the order of knobs.
        (Knob::MemorySwapMax, Setting::Number(swap)) => match all.get(&Knob::MemoryMax) {
            Some(Setting::Number(memory)) => vec![(file, memory.saturating_add(*swap).to_string())],
            _ => Vec::new(),
        },
        (Knob::IoMax, Setting::Disk(disk, rates)) => {
            let rates = [rates.read_bytes, rates.write_bytes, rates.read_ops, rates.write_ops];
            let files = V1_RATES.into_iter().zip(rates);
            files.filter_map(|(file, rate)| Some((file, format!("{disk} {}", rate?)))).collect()
        }
        (Knob::Devices, Setting::Devices(ranges)) => {
            let allowed = ranges.iter().map(|range| ("devices.allow", range.to_string()));
            std::iter::once(("devices.deny", "a".to_owned())).chain(allowed).collect()
        }
        (_, setting) => vec![(file, setting.to_string())],
    }
}

#[cfg(test)]
mod tests {
    use model::{BlockDevice, DiskRates};

    use super::*;

    #[test]
    fn on_a_hybrid_host_a_limit_is_a_line_for_each_file_of_its_hierarchy() {
        let hierarchy = |root: &str, controllers: &[&str]| V1Hierarchy {
            root: root.into(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        };
        let rates = DiskRates { read_bytes: Some(5), write_ops: Some(7), ..DiskRates::default() };
        let disk = BlockDevice { major: 254, minor: 0 };
        let at = Whereabouts {
            settings: [
                (Knob::MemoryMax, Setting::Number(1 << 20)),
                (Knob::MemorySwapMax, Setting::Number(4096)),
                (Knob::CpuMax, Setting::Quota(5000, 100_000)),
                (Knob::CpuWeight, Setting::Number(50)),
                (Knob::CpusetCpus, Setting::Cpus(vec![1])),
                (Knob::PidsMax, Setting::Unlimited),
                (Knob::IoMax, Setting::Disk(disk, rates)),
                (Knob::NetworkEgress, Setting::Number(9)),
            ]
            .into(),
            v1: vec![
                hierarchy("/cg/memory", &["memory"]),
                hierarchy("/cg/cpu,cpuacct", &["cpu", "cpuacct"]),
                hierarchy("/cg/cpuset", &["cpuset"]),
                hierarchy("/cg/blkio", &["blkio"]),
            ],
            ..super::super::tests::at()
        };
        let text = group(&at);
        let limits: Vec<&str> = text.lines().filter(|line| line.starts_with("limit")).collect();
        assert_eq!(
            limits[2..],
            [
                "limit_v1 /cg/memory memory.limit_in_bytes 1048576",
                "limit_v1 /cg/memory memory.memsw.limit_in_bytes 1052672",
                "limit_v1 /cg/cpu,cpuacct cpu.cfs_period_us 100000",
                "limit_v1 /cg/cpu,cpuacct cpu.cfs_quota_us 5000",
                "limit_v1 /cg/cpu,cpuacct cpu.shares 512",
                "limit_v1 /cg/cpuset cpuset.cpus 1",
                "limit_v1 /cg/blkio blkio.throttle.read_bps_device '254:0 5'",
                "limit_v1 /cg/blkio blkio.throttle.write_iops_device '254:0 7'",
                "limit network.egress 9",
            ]
        );
        let unified = group(&Whereabouts { v1: Vec::new(), ..at });
        assert!(unified.contains("limit memory.max 1048576\n") && !unified.contains("v1"), "{unified}");
    }
}
