//! Every knob that this host's kernel has, turned on real groups and read back by other eyes.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use model::{BlockDevice, Boot, CgroupLayout, DeviceRange, DiskRates, Knob, Partition, Rdma, Setting, Settings};
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
        Lab::on(find_layout(&mounts).expect("control groups"), what)
    }

    fn on(layout: CgroupLayout, what: &str) -> Lab {
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

    /// A process of the group that runs a script, which says when it is ready.
    fn shell(&self, script: &str) -> (Child, BufReader<ChildStdout>) {
        let mut into: Vec<PathBuf> = self.groups.extra_groups(self.boot);
        into.push(self.groups.payload(self.boot));
        let join: Vec<String> =
            into.iter().map(|group| format!("echo $$ > {}/cgroup.procs", group.display())).collect();
        let script = format!("{}; {script}", join.join("; "));
        let mut child =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let mut said = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        (child, said)
    }

    /// A process of the group that holds so many bytes, until its standard input ends.
    fn hog(&self, bytes: u64) -> (Child, BufReader<ChildStdout>) {
        self.shell(&format!("x=$(head -c {bytes} /dev/zero | tr '\\0' x); echo ready; read y"))
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
        Knob::CpusetPartition => Setting::Partition(Partition::Root),
        Knob::RdmaMax => Setting::Rdma(Rdma { handles: Some(2), objects: Some(20) }),
        // Of what there is, which no machine of the tests has any of.
        Knob::MiscMax => Setting::Misc([("sev".to_owned(), 1)].into()),
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
        Knob::NetworkIngress => Setting::Number(10_000_000),
        Knob::NetworkEgress => Setting::Number(5_000_000),
        Knob::Devices => Setting::Devices(ranges(&["null", "zero"])),
    }
}

/// Why a kernel has not got a knob, by other eyes than those of [`Groups::knobs`]; `None` when it should have it.
fn why_not(knob: Knob, layout: &CgroupLayout) -> Option<String> {
    let is_there = |path: &str| Path::new(path).exists();
    let is_empty = |path: &str| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let hybrid = matches!(layout, CgroupLayout::Hybrid { .. });
    let is_new_in_v2 = matches!(
        knob,
        Knob::MemoryMin
            | Knob::MemoryLow
            | Knob::MemoryZswapMax
            | Knob::MemoryOomGroup
            | Knob::IoLatency
            | Knob::CpusetPartition
            | Knob::RdmaMax
            | Knob::MiscMax
    );
    if hybrid && is_new_in_v2 {
        return Some("not in cgroup v1".into());
    }
    if let Some(bytes) = knob.huge_page_bytes() {
        let page = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", bytes >> 10);
        return (!is_there(&page)).then(|| "no such page".into());
    }
    let without = |option: &str| {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let config = std::fs::read_to_string(format!("/boot/config-{release}")).ok();
        let is_set = |text: &String| text.lines().any(|line| line == format!("{option}=y"));
        // A kernel that does not tell is believed.
        config.is_none_or(|text| !is_set(&text)).then(|| format!("no {option}"))
    };
    match knob {
        Knob::CpuUclampMin | Knob::CpuUclampMax => without("CONFIG_UCLAMP_TASK_GROUP"),
        Knob::IoLatency => without("CONFIG_BLK_CGROUP_IOLATENCY"),
        Knob::IoWeight => without("CONFIG_BLK_CGROUP_IOCOST"),
        Knob::MemoryZswapMax => without("CONFIG_ZSWAP"),
        Knob::MemorySwapMax => without("CONFIG_SWAP"),
        Knob::CpuMaxBurst => without("CONFIG_CFS_BANDWIDTH"),
        Knob::CpusetPartition => {
            let CgroupLayout::Unified { root } = layout else { return Some("not in cgroup v1".into()) };
            let is_old = std::fs::read_dir(root)
                .is_ok_and(|groups| groups.flatten().all(|group| !group.path().join("cpuset.cpus.exclusive").exists()));
            is_old.then(|| "older than Linux 6.7".into())
        }
        Knob::RdmaMax => {
            (!is_there("/sys/class/infiniband") || is_empty("/sys/class/infiniband")).then(|| "no device".into())
        }
        Knob::MiscMax => {
            let CgroupLayout::Unified { root } = layout else { return Some("not in cgroup v1".into()) };
            let counted = std::fs::read_to_string(Path::new(root).join("misc.capacity")).unwrap_or_default();
            counted.trim().is_empty().then(|| "nothing to count".into())
        }
        _ => None,
    }
}

fn ranges(names: &[&str]) -> Vec<DeviceRange> {
    names.iter().map(|name| DeviceRange::named(name).expect(name)).collect()
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
    let lacks: Vec<String> = Knob::ALL
        .into_iter()
        .filter(|knob| !knobs.contains(knob))
        .map(|knob| {
            let why =
                why_not(knob, &lab.layout).unwrap_or_else(|| panic!("{knob:?} is not found, and nothing says why"));
            format!("{} ({why})", knob.file())
        })
        .collect();
    eprintln!("figure: {} of {} knobs here, all turned in {} us", knobs.len(), Knob::ALL.len(), elapsed.as_micros());
    eprintln!("figure: knobs that this kernel has not: {}", lacks.join(", "));
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
fn running_processes_have_all_cpus_again_and_never_those_that_a_neighbour_keeps() {
    let lab = Lab::new("cpus");
    let (mut child, _said) = lab.shell("echo ready; read y");
    // What the kernel lets it run on, by other eyes.
    let runs_on = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("alive");
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list").trim();
        model::limits::parse_cpu_list(list).expect("CPUs")
    };
    let all = runs_on();
    let cpus = |ids: &[u32]| (Knob::CpusetCpus, Setting::Cpus(ids.to_vec()));
    let partition = |kind| (Knob::CpusetPartition, Setting::Partition(kind));
    let turn = |settings: Settings| lab.groups.apply(lab.boot, &settings);
    if let [first, rest @ ..] = &*all
        && !rest.is_empty()
    {
        for _ in 0..2 {
            turn([cpus(&[*first])].into()).expect("limited");
            assert_eq!(runs_on(), [*first]);
            turn([cpus(&[])].into()).expect("no more");
            assert_eq!((runs_on(), lab.at()[&Knob::CpusetCpus].clone()), (all.clone(), Setting::Cpus(Vec::new())));
        }
        if lab.groups.knobs().contains(&Knob::CpusetPartition) {
            let neighbour = Boot { generation: lab.boot.generation.next(), ..lab.boot };
            let other = |settings: Settings| lab.groups.apply(neighbour, &settings);
            lab.groups.create(neighbour, &[cpus(&[*first])].into(), 1 << 20).expect("made");
            for kind in [Partition::Root, Partition::Isolated] {
                other([partition(kind)].into()).expect("its own");
                assert_eq!((runs_on(), lab.at()[&Knob::CpusetCpus].clone()), (rest.to_vec(), cpus(&[]).1), "{kind:?}");
                // Naming one of them would end the partition.
                let error = turn([cpus(&[*first])].into()).expect_err("taken");
                assert!(format!("{:?}", error.source).contains("limits.cpu.partition"), "{error:?}");
                let seen = lab.groups.settings(neighbour).expect("read").expect("a group");
                assert_eq!((runs_on(), &seen[&Knob::CpusetPartition]), (rest.to_vec(), &partition(kind).1));
                other([partition(Partition::Member)].into()).expect("everybody's again");
                assert_eq!(runs_on(), all, "{kind:?}");
            }
            // Nor is a partition made of what a neighbour names, or of all that there is.
            turn([cpus(&[*first])].into()).expect("limited");
            let error = other([partition(Partition::Root)].into()).expect_err("named");
            assert!(format!("{:?}", error.source).contains("another instance names"), "{error:?}");
            turn([cpus(&[])].into()).expect("no more");
            let error = other([cpus(&all), partition(Partition::Root)].into()).expect_err("all");
            assert!(format!("{:?}", error.source).contains("none left"), "{error:?}");
            assert_eq!(runs_on(), all);
            other([partition(Partition::Root)].into()).expect("its own");
            lab.groups.remove(neighbour).expect("removed");
            assert_eq!(runs_on(), all, "who is gone keeps nothing");
        }
    }
    drop(child.stdin.take());
    child.wait().expect("ended");
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

/// This host's way, and that of cgroup2 where that is another.
fn layouts() -> Vec<CgroupLayout> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let own = find_layout(&mounts).expect("control groups");
    let CgroupLayout::Hybrid { root, .. } = &own else { return vec![own] };
    let second = CgroupLayout::Unified { root: root.clone() };
    vec![own, second]
}

#[test]
fn devices_are_taken_from_a_running_process_and_given_back() {
    for layout in layouts() {
        let way = if matches!(layout, CgroupLayout::Unified { .. }) { "a program" } else { "v1" };
        let lab = Lab::on(layout, "devices");
        assert!(lab.groups.knobs().contains(&Knob::Devices), "{way}");
        // Tells of each device that it is asked for whether it can be opened; by itself it needs none but null.
        let try_all = "echo ready; while read how; do (eval exec 3$how) 2>/dev/null && echo yes || echo no; done";
        let (mut child, mut said) = lab.shell(try_all);
        let mut stdin = child.stdin.take().expect("stdin");
        let mut opens = |how: &str| {
            writeln!(stdin, "{how}").expect("asked");
            let mut line = String::new();
            said.read_line(&mut line).expect("an answer");
            line == "yes\n"
        };
        let put = |setting: Setting| {
            let changes = lab.groups.apply(lab.boot, &[(Knob::Devices, setting.clone())].into()).expect("turned");
            assert_eq!(lab.at().get(&Knob::Devices), Some(&setting), "{way}");
            changes
        };
        assert!(opens("</dev/zero") && opens("</dev/full"), "{way}");
        let changes = put(Setting::Devices(ranges(&["null", "zero"])));
        assert_eq!(changes.len(), 1);
        assert!(opens("</dev/zero") && opens("<>/dev/null") && !opens("</dev/full"), "{way}");
        // From one list to another: one is new, one is gone, one may only be read.
        let mut other = ranges(&["null", "full", "urandom", "pts"]);
        put(Setting::Devices(other.clone()));
        assert!(!opens("</dev/zero") && opens("</dev/full") && opens(">/dev/null") && opens(">/dev/urandom"), "{way}");
        other[2].access.write = false;
        put(Setting::Devices(other));
        assert!(!opens(">/dev/urandom") && opens("</dev/urandom") && !opens("<>/dev/urandom"), "{way}");
        put(Setting::Unlimited);
        assert!(opens("</dev/zero") && opens("</dev/full"), "{way}");
        eprintln!("figure: devices by {way}: turned in {} us", changes[0].us);
        drop(stdin);
        child.wait().expect("ended");
    }
}
