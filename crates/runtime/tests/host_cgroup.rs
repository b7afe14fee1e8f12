//! Every knob that this host's kernel has, turned on real groups and read back by other eyes.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use model::{BlockDevice, Boot, CgroupLayout, DiskRates, Knob, Setting, Settings};
use runtime::cgroup::{Groups, find_layout};

/// A base group of its own, with one boot in it; gone at the end.
struct Lab {
    layout: CgroupLayout,
    base: String,
    groups: Groups,
    boot: Boot,
}

impl Lab {
    fn new(what: &str) -> Lab {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let layout = find_layout(&mounts).expect("control groups");
        let base = format!("sysctl-knobs-{what}-{}", std::process::id());
        let groups = Groups::new(&layout, &base);
        groups.prepare().expect("prepared");
        let boot: Boot = "3f1c9a52-6f0e-4a0b-9d7e-000000000001.1".parse().expect("a boot");
        groups.create(boot, &Settings::new(), 1 << 20).expect("made");
        Lab { layout, base, groups, boot }
    }

    fn at(&self) -> Settings {
        self.groups.settings(self.boot).expect("read").expect("a group")
    }

    /// The text of a file of the boot's group, wherever its controller is.
    fn file(&self, names: &[&str]) -> Option<(PathBuf, String)> {
        let group = |root: &str| Path::new(root).join(&self.base).join(self.boot.to_string());
        let mut roots = Vec::new();
        match &self.layout {
            CgroupLayout::Unified { root } => roots.push(root.clone()),
            CgroupLayout::Hybrid { root, v1 } => {
                roots.extend(v1.iter().map(|h| h.root.clone()));
                roots.push(root.clone());
            }
        }
        let paths = roots.iter().flat_map(|root| names.iter().map(|name| group(root).join(name)));
        paths.into_iter().find_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?.trim().to_owned())))
    }

    /// A process of the group that holds so many bytes, until its standard input ends.
    fn hog(&self, bytes: u64) -> (Child, BufReader<ChildStdout>) {
        let mut into: Vec<PathBuf> = self.groups.extra_groups(self.boot);
        into.push(self.groups.payload(self.boot));
        let join: Vec<String> =
            into.iter().map(|group| format!("echo $$ > {}/cgroup.procs", group.display())).collect();
        let script = format!("{}; x=$(head -c {bytes} /dev/zero | tr '\\0' x); echo ready; read y", join.join("; "));
        let mut child =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut said = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        (child, said)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.groups.kill(self.boot).expect("killed");
        self.groups.remove(self.boot).expect("removed");
        self.groups.remove_base().expect("base removed");
    }
}

/// A value for each knob that is not the one of a new group.
fn sample(knob: Knob) -> Setting {
    match knob {
        Knob::MemoryMin => Setting::Number(4 << 20),
        Knob::MemoryLow => Setting::Number(8 << 20),
        Knob::MemoryHigh => Setting::Number(96 << 20),
        Knob::MemoryMax => Setting::Number(128 << 20),
        Knob::MemorySwapMax => Setting::Number(16 << 20),
        Knob::MemoryZswapMax => Setting::Number(4 << 20),
        Knob::MemoryOomGroup | Knob::CpuIdle => Setting::Number(1),
        Knob::CpuMax => Setting::Quota(30_000, 60_000),
        Knob::CpuMaxBurst => Setting::Number(20_000),
        Knob::CpuWeight => Setting::Number(57),
        Knob::CpuUclampMin => Setting::Number(1250),
        Knob::CpuUclampMax => Setting::Number(7525),
        Knob::CpusetCpus => Setting::Cpus(vec![0]),
        Knob::PidsMax => Setting::Number(77),
        Knob::IoMax => {
            let rates = DiskRates { read_bytes: Some(1 << 20), write_ops: Some(50), ..DiskRates::default() };
            Setting::Disk(a_disk(), rates)
        }
        Knob::IoWeight => Setting::Number(40),
        Knob::IoLatency => Setting::Latency(a_disk(), 20_000),
        Knob::Hugetlb64KBMax | Knob::Hugetlb1MBMax | Knob::Hugetlb2MBMax | Knob::Hugetlb1GBMax => {
            Setting::Number(knob.huge_page_bytes().expect("a page"))
        }
    }
}

fn a_disk() -> BlockDevice {
    let disk = std::fs::read_dir("/sys/block").expect("disks").flatten().next().expect("a disk");
    let text = std::fs::read_to_string(disk.path().join("dev")).expect("its number");
    let (major, minor) = text.trim().split_once(':').expect("major:minor");
    BlockDevice { major: major.parse().expect("a number"), minor: minor.parse().expect("a number") }
}

#[test]
fn every_knob_of_this_kernel_is_turned_and_read_back() {
    let lab = Lab::new("all");
    let knobs = lab.groups.knobs();
    for needed in [Knob::MemoryMax, Knob::CpuMax, Knob::CpuWeight, Knob::CpusetCpus, Knob::PidsMax] {
        assert!(knobs.contains(&needed), "{needed:?}");
    }
    let before = lab.at();
    for knob in knobs {
        assert_eq!(before.get(knob), Some(&knob.initial()), "{knob:?} of a new group");
    }
    let wanted: Settings = knobs.iter().map(|knob| (*knob, sample(*knob))).collect();
    // An idle group has no weight, so that is turned with the rest and seen by itself.
    let weight = wanted.get(&Knob::CpuWeight).cloned();
    let (idle, rest): (Settings, Settings) = wanted.into_iter().partition(|(knob, _)| *knob == Knob::CpuIdle);
    let begun = std::time::Instant::now();
    let changes = lab.groups.apply(lab.boot, &rest).expect("turned");
    let elapsed = begun.elapsed();
    assert_eq!(changes.len(), rest.len());
    for change in &changes {
        assert_eq!((&change.old, Some(&change.new)), (&change.knob.initial(), rest.get(&change.knob)));
        assert!(Path::new(&change.file).exists(), "{}", change.file);
    }
    for (knob, setting) in &rest {
        assert_eq!(lab.at().get(knob), Some(setting), "{knob:?}");
    }
    eprintln!("figure: {} of {} knobs here, all turned in {} us", knobs.len(), Knob::ALL.len(), elapsed.as_micros());
    for (names, text) in [
        (["memory.max", "memory.limit_in_bytes"], "134217728"),
        (["pids.max", "pids.max"], "77"),
        (["cpuset.cpus", "cpuset.cpus"], "0"),
    ] {
        assert_eq!(lab.file(&names).expect("a file").1, text, "{names:?}");
    }
    if !idle.is_empty() {
        lab.groups.apply(lab.boot, &idle).expect("idle");
        assert_eq!(lab.at().get(&Knob::CpuIdle), Some(&Setting::Number(1)));
        assert_eq!(lab.at().get(&Knob::CpuWeight), None);
        let awake = [(Knob::CpuIdle, Setting::Number(0)), (Knob::CpuWeight, weight.expect("a weight"))].into();
        lab.groups.apply(lab.boot, &awake).expect("awake");
        assert_eq!(lab.at().get(&Knob::CpuWeight), Some(&sample(Knob::CpuWeight)));
    }
    lab.groups.apply(lab.boot, &before).expect("back");
    assert_eq!(lab.at(), before);
}

#[test]
fn a_limit_below_what_is_used_is_refused_and_nothing_is_half_done() {
    let lab = Lab::new("below");
    lab.groups.apply(lab.boot, &[(Knob::MemoryMax, Setting::Number(256 << 20))].into()).expect("turned");
    let (mut hog, _said) = lab.hog(60_000_000);
    let before = lab.at();
    let mut wanted: Settings = [
        (Knob::MemoryMax, Setting::Number(16 << 20)),
        (Knob::PidsMax, Setting::Number(50)),
        (Knob::CpuWeight, Setting::Number(20)),
    ]
    .into();
    if lab.groups.knobs().contains(&Knob::MemorySwapMax) {
        wanted.insert(Knob::MemorySwapMax, Setting::Number(0));
    }
    let error = lab.groups.apply(lab.boot, &wanted).expect_err("it is in use");
    assert_eq!(error.source.raw_os_error(), Some(16), "{error}");
    assert!(error.path.contains("/memory."), "{error}");
    assert_eq!(lab.at(), before);
    assert!(hog.try_wait().expect("wait").is_none(), "nobody is killed by a limit that was refused");
    // With room for what is used it is taken at once.
    lab.groups.apply(lab.boot, &[(Knob::MemoryMax, Setting::Number(100 << 20))].into()).expect("turned");
    hog.stdin.take().expect("stdin").write_all(b"\n").expect("write");
    hog.wait().expect("ended");
    lab.groups.apply(lab.boot, &wanted).expect("nobody uses it any more");
}

#[test]
fn a_kernel_that_refuses_one_value_leaves_the_others_as_they_were() {
    let lab = Lab::new("half");
    let before = lab.at();
    let nowhere = Setting::Cpus(vec![8191]);
    let wanted =
        [(Knob::CpusetCpus, nowhere), (Knob::CpuWeight, Setting::Number(20)), (Knob::PidsMax, Setting::Number(9))];
    lab.groups.apply(lab.boot, &wanted.into()).expect_err("no such CPU");
    assert_eq!(lab.at(), before);
}
