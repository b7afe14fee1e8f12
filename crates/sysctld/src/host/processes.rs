//! Processes of ours on this host, found by their arguments and sockets, and whether each serves somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine::{Cure, Damage};
use model::Boot;

/// What a helper calls itself once it has become lxcfs.
const LXCFS: &str = "lxcfs";

/// A process that runs the keeper's program, or lxcfs for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    parent: u32,
    start: u64,
    words: Vec<String>,
    /// The boots whose control sockets it holds.
    boots: BTreeSet<Boot>,
}

/// What is known of the processes that there should be.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The socket of our spawn process.
    pub(super) spawn_socket: String,
    /// What is in the command line of each lxcfs of ours, and the one that should run.
    pub(super) lxcfs: (String, Option<u32>),
    /// Helpers that were started and have not ended.
    pub(super) helpers: BTreeSet<u32>,
    /// Boots that have a keeper, as far as we know.
    pub(super) boots: BTreeSet<Boot>,
    /// What those keepers said that they are.
    pub(super) keepers: BTreeMap<u32, Boot>,
    /// Boots that have a directory.
    pub(super) directories: BTreeSet<Boot>,
}

/// Every process that runs the keeper's program, and every lxcfs that has `mark` in its command line. `keep` is where keepers have their directories.
///
/// Without CAP_SYS_PTRACE, as in our unit, nobody sees the files of processes that may do more than he: then the `known` ones
/// are believed, and of others it is not known whose they are.
pub(super) fn list(keep: &Path, known: &BTreeMap<u32, Boot>, mark: &str) -> Vec<Process> {
    let sockets = sockets(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default(), keep);
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> =
            text.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let program = words.first()?.rsplit('/').next()?;
        if program != "sysctl-keeper" && !(program == LXCFS && words.iter().any(|word| word == mark)) {
            return None;
        }
        let (parent, start) = stat(pid)?;
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links: Vec<_> = files.map(|file| std::fs::read_link(file.path())).collect();
        let boot_of = |link: &PathBuf| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()?;
            sockets.get(&inode).copied()
        };
        let boots = match links.iter().all(Result::is_err) {
            true => known.get(&pid).copied().into_iter().collect(),
            false => links.iter().flatten().filter_map(boot_of).collect(),
        };
        Some(Process { pid, parent, start, words, boots })
    })
    .collect()
}

/// Parent and start time; `None` for one that is gone or dead.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// Control sockets of keepers by inode, from the text of /proc/net/unix: they keep their path when it is removed.
fn sockets(text: &str, keep: &Path) -> BTreeMap<u64, Boot> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let path = Path::new(fields.get(7)?).strip_prefix(keep).ok()?;
        let boot = path.parent()?.to_str()?.parse().ok()?;
        Some((fields.get(6)?.parse().ok()?, boot))
    };
    text.lines().filter_map(line).collect()
}

/// Which of them should not be as they are.
pub(super) fn judge(processes: &[Process], known: &Known) -> Vec<Damage> {
    let mode = |process: &Process| match &*process.words {
        [program, ..] if program == LXCFS => program.clone(),
        [_, mode, ..] => mode.clone(),
        _ => String::new(),
    };
    let is_spawn = |p: &&Process| mode(p) == "spawn" && p.words.contains(&known.spawn_socket);
    let spawns: BTreeSet<u32> = processes.iter().filter(is_spawn).map(|p| p.pid).collect();
    let mut found = Vec::new();
    let mut wrong = |kind, object: String, text: &str, of: Option<Boot>, cure| {
        let (text, of) = (text.to_owned(), of.map(|boot| boot.id));
        found.push(Damage { kind, object, text, of, cure });
    };
    if spawns.is_empty() {
        wrong("spawn process", known.spawn_socket.clone(), "does not run", None, Cure::Loop);
    }
    let mut keepers: BTreeMap<Boot, Vec<&Process>> = BTreeMap::new();
    for process in processes {
        let name = || format!("{} ({})", process.pid, process.words[1..].join(" ").trim());
        let end = Cure::End(process.pid, process.start);
        match mode(process).as_str() {
            // Between its clone and its exec a stage looks like its keeper.
            "keep" => process.boots.iter().for_each(|boot| keepers.entry(*boot).or_default().push(process)),
            LXCFS if known.lxcfs.1 != Some(process.pid) => wrong("lxcfs", name(), "serves nobody", None, end),
            "help" if spawns.contains(&process.parent) && !known.helpers.contains(&process.pid) => {
                wrong("helper", name(), "serves nobody", None, end);
            }
            _ => {}
        }
    }
    for (boot, mut holders) in keepers {
        let pids: BTreeSet<u32> = holders.iter().map(|holder| holder.pid).collect();
        holders.retain(|holder| !pids.contains(&holder.parent));
        holders.sort_by_key(|holder| holder.start);
        for surplus in holders.iter().skip(1) {
            let cure = Cure::End(surplus.pid, surplus.start);
            wrong("keeper", format!("{} of {boot}", surplus.pid), "is one too many for this boot", Some(boot), cure);
        }
        let Some(keeper) = holders.first() else { continue };
        match (known.boots.contains(&boot), known.directories.contains(&boot)) {
            (_, true) => {}
            (true, false) => {
                let cure = Cure::Replace(boot, keeper.pid, keeper.start);
                wrong("keeper", format!("{} of {boot}", keeper.pid), "has lost its directory", Some(boot), cure);
            }
            (false, false) => {
                let cure = Cure::End(keeper.pid, keeper.start);
                wrong("keeper", format!("{} of {boot}", keeper.pid), "keeps a boot of nothing", Some(boot), cure);
            }
        }
    }
    let kept: BTreeSet<Boot> = processes.iter().flat_map(|process| process.boots.iter().copied()).collect();
    for boot in known.boots.difference(&kept) {
        wrong("keeper", boot.to_string(), "has no process", Some(*boot), Cure::Loop);
    }
    found
}

/// Descriptors of this process by kind: what they are open on, without numbers and paths.
pub(super) fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy();
        let kind = if link.starts_with('/') && !link.starts_with("/memfd:") {
            "file"
        } else {
            link.split_once([':', ' '])
                .map_or(&*link, |(kind, rest)| if kind == "anon_inode" { rest.trim_matches(['[', ']']) } else { kind })
        };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// What there is too much of: more descriptors than the daemon has reason to hold.
pub(super) fn surplus(kinds: &BTreeMap<String, usize>, allowed: usize) -> Option<Damage> {
    let all: usize = kinds.values().sum();
    let most = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
    (all > allowed).then(|| Damage {
        kind: "descriptors",
        object: "sysctld".into(),
        text: format!("the daemon holds {all} open files and has reason for {allowed}: {most}"),
        of: None,
        cure: Cure::People("report this as a leak; restarting the daemon frees them and disturbs no guest".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(n: u128) -> Boot {
        Boot { id: model::InstanceId(uuid::Uuid::from_u128(n)), generation: model::BootGen(1) }
    }

    fn process(pid: u32, parent: u32, words: &str, boots: &[Boot]) -> Process {
        let words = ["sysctl-keeper"].into_iter().chain(words.split(' ')).map(str::to_owned).collect();
        Process { pid, parent, start: u64::from(pid), words, boots: boots.iter().copied().collect() }
    }

    #[test]
    fn processes_that_serve_somebody_are_right_and_all_others_are_told() {
        let known = Known {
            spawn_socket: "/run/x/spawn.socket".into(),
            lxcfs: ("/run/x/lxcfs.pid".into(), Some(60)),
            helpers: [30].into(),
            boots: [boot(1), boot(2), boot(3)].into(),
            keepers: BTreeMap::new(),
            directories: [boot(1), boot(3)].into(),
        };
        let mut processes = vec![
            process(10, 1, "spawn --socket /run/x/spawn.socket", &[]),
            process(20, 10, "keep --wait 3", &[boot(1)]),
            process(21, 20, "keep --wait 3", &[boot(1)]),
            process(25, 10, "keep --wait 3", &[]),
            process(30, 10, "help files", &[]),
            // Of another daemon.
            process(50, 1, "spawn --socket /run/y/spawn.socket", &[]),
            process(51, 50, "help files", &[]),
            process(40, 10, "keep --wait 3", &[boot(2)]),
            process(41, 10, "keep --wait 3", &[boot(3)]),
        ];
        let lxcfs = |pid| Process {
            words: ["lxcfs", "--pidfile", "/run/x/lxcfs.pid"].map(str::to_owned).into(),
            ..process(pid, 10, "", &[])
        };
        processes.push(lxcfs(60));
        let told = |processes: &[Process]| -> Vec<String> {
            judge(processes, &known)
                .into_iter()
                .map(|d| format!("{} {}", d.object.split(' ').next().unwrap_or_default(), d.text))
                .collect()
        };
        assert_eq!(told(&processes), ["40 has lost its directory"]);
        processes.extend([
            process(22, 10, "keep --wait 3", &[boot(1)]),
            process(31, 10, "help files", &[]),
            process(42, 10, "keep --wait 3", &[boot(4)]),
            lxcfs(61),
        ]);
        assert_eq!(
            told(&processes),
            [
                "31 serves nobody",
                "61 serves nobody",
                "22 is one too many for this boot",
                "40 has lost its directory",
                "42 keeps a boot of nothing"
            ]
        );
        let gone: Vec<Process> = processes.into_iter().filter(|p| ![10, 41].contains(&p.pid)).collect();
        let text = told(&gone).join("; ");
        assert!(text.contains("does not run") && text.contains("has no process"), "{text}");
    }

    #[test]
    fn sockets_are_known_by_their_path() {
        let text = format!(
            "Num RefCount Protocol Flags Type St Inode Path\n\
             0000: 00000002 00000000 00010000 0005 01 77 /run/x/keep/{0}/control\n\
             0000: 00000003 00000000 00000000 0005 03 78 /run/x/keep/{0}/control\n\
             0000: 00000003 00000000 00000000 0005 03 79\n\
             0000: 00000003 00000000 00000000 0005 03 80 /run/y/keep/{0}/control\n",
            boot(7)
        );
        assert_eq!(sockets(&text, Path::new("/run/x/keep")), [(77, boot(7)), (78, boot(7))].into());
    }

    #[test]
    fn a_surplus_of_descriptors_is_named_by_kind() {
        let kinds: BTreeMap<String, usize> = [("socket".to_owned(), 9), ("eventfd".to_owned(), 2)].into();
        assert_eq!(surplus(&kinds, 11), None);
        let text = surplus(&kinds, 10).expect("a surplus").text;
        assert!(text.contains("holds 11") && text.contains("9 socket"), "{text}");
        assert!(descriptors().values().sum::<usize>() > 2);
    }
}
