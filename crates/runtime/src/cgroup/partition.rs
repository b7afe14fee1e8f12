//! The CPUs of groups in cgroup2: which they may use, and which they have for themselves.
//!
//! What a group may keep from others must be handed down to it by every group above (`cpuset.cpus.exclusive`, Linux 6.7). Each
//! of those has what the groups below it keep, and no more.
//!
//! The kernel ends a partition when somebody beside it names one of its CPUs, so that is refused here first. And it takes no
//! empty list from a group with processes: one that may use all CPUs again has a list of them, with a note that it is no
//! limit, and follows what others keep and give back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kernel::Errno;
use model::Partition;
use model::limits::{format_cpu_list, parse_cpu_list};
use rustix::fs::XattrFlags;
use rustix::thread::CapabilitySet;

use super::{Error, failed, read, subdirectories, write};

const CPUS: &str = "cpuset.cpus";
const EFFECTIVE: &str = "cpuset.cpus.effective";
const KIND: &str = "cpuset.cpus.partition";
const EXCLUSIVE: &str = "cpuset.cpus.exclusive";

/// The note of a group whose list is no limit.
const ALL: &str = "user.sysctl.all-cpus";

type Cpus = BTreeSet<u32>;

/// Whether this kernel has partitions far from the root, and lets us make them.
pub(super) fn is_possible(group: &Path) -> bool {
    let ours = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    group.join(KIND).exists() && group.join(EXCLUSIVE).exists() && ours.contains(CapabilitySet::SYS_ADMIN)
}

/// What a group is now.
pub(super) fn kind(group: &Path) -> Result<Partition, Error> {
    let text = read(&group.join(KIND))?;
    // Like `root invalid (Cpu list in cpuset.cpus not exclusive)`.
    let (word, is_kept_to) = text.split_once(' ').map_or((&*text, true), |(word, _)| (word, false));
    let known = [Partition::Root, Partition::Isolated].into_iter().find(|kind| kind.as_str() == word);
    Ok(known.map_or(Partition::Member, |kind| if is_kept_to { kind } else { Partition::Invalid }))
}

/// The CPUs that a group is limited to; none when to no fewer than all.
pub(super) fn cpus(group: &Path) -> Result<Vec<u32>, Error> {
    Ok(if is_noted(group) { Vec::new() } else { list(&group.join(CPUS))?.into_iter().collect() })
}

/// Limits a group to CPUs, or with none of them no more. One that has its CPUs for itself has the new ones for itself.
pub(super) fn put_cpus(root: &Path, group: &Path, ids: &[u32]) -> Result<(), Error> {
    let wanted: Cpus = ids.iter().copied().collect();
    refuse(group, &wanted, EXCLUSIVE, "another instance has to itself by its limits.cpu.partition")?;
    let kind = if is_possible(group) { kind(group)? } else { Partition::Member };
    if kind != Partition::Member {
        put(root, group, Partition::Member)?;
    }
    if wanted.is_empty() {
        put_all(group)?;
    } else {
        // What is not noted and not as wished either is seen by the next look, should we die here.
        forget_note(group)?;
        write_list(&group.join(CPUS), &wanted)?;
    }
    if kind == Partition::Member { Ok(()) } else { put(root, group, kind) }
}

/// Gives a group its CPUs for itself, or lets others run on them. A partition that the kernel does not keep to is refused with
/// its reason, and there is none then.
pub(super) fn put(root: &Path, group: &Path, kind: Partition) -> Result<(), Error> {
    let above: Vec<PathBuf> = group.ancestors().skip(1).take_while(|path| *path != root).map(Path::to_owned).collect();
    // Off first: what it keeps may be about to change.
    give_back(group, &above)?;
    // The kernel alone makes one invalid: it is none.
    if matches!(kind, Partition::Member | Partition::Invalid) {
        return Ok(());
    }
    let cpus = list(&group.join(CPUS))?;
    refuse(group, &cpus, CPUS, "another instance names in its limits.cpu")?;
    let made = keep(group, &above, &cpus, kind);
    if made.is_err() {
        // What failed is told; this cannot fail but for a reason that the former had.
        let _ = give_back(group, &above);
    }
    made
}

fn keep(group: &Path, above: &[PathBuf], cpus: &Cpus, kind: Partition) -> Result<(), Error> {
    if let Some(base) = above.first() {
        let rest: Cpus = list(&base.join(EFFECTIVE))?.difference(cpus).copied().collect();
        if rest.is_empty() {
            let text = "others would have none left: name fewer in limits.cpu";
            return Err(failed("give CPUs to", group)(io::Error::other(text)));
        }
        // They must be off them before.
        follow(base, &rest)?;
    }
    for ancestor in above.iter().rev() {
        let all: Cpus = list(&ancestor.join(EXCLUSIVE))?.union(cpus).copied().collect();
        write_list(&ancestor.join(EXCLUSIVE), &all)?;
    }
    write_list(&group.join(EXCLUSIVE), cpus)?;
    write(&group.join(KIND), kind.as_str())?;
    match read(&group.join(KIND))? {
        text if text == kind.as_str() => Ok(()),
        text => Err(failed("make a partition of", group)(io::Error::other(text))),
    }
}

/// Lets go of what a group keeps, and of what those above keep for nobody else.
fn give_back(group: &Path, above: &[PathBuf]) -> Result<(), Error> {
    write(&group.join(KIND), Partition::Member.as_str())?;
    write_list(&group.join(EXCLUSIVE), &Cpus::new())?;
    for ancestor in above {
        // One that is gone by now keeps nothing.
        let kept = |child: PathBuf| list(&child.join(EXCLUSIVE)).unwrap_or_default();
        write_list(&ancestor.join(EXCLUSIVE), &children(ancestor)?.into_iter().flat_map(kept).collect())?;
    }
    above.first().map_or(Ok(()), |base| follow(base, &list(&base.join(EFFECTIVE))?))
}

/// Has every group below `base` whose list is no limit use `all`.
fn follow(base: &Path, all: &Cpus) -> Result<(), Error> {
    children(base)?.iter().filter(|child| is_noted(child)).try_for_each(|child| write_list(&child.join(CPUS), all))
}

/// Has a group use all CPUs that nobody else keeps.
fn put_all(group: &Path) -> Result<(), Error> {
    let path = group.join(CPUS);
    match write_list(&path, &Cpus::new()) {
        Err(error) if error.source.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => {
            write_list(&path, &list(&group.with_file_name(EFFECTIVE))?)?;
            note(group)
        }
        other => other.and_then(|()| forget_note(group)),
    }
}

/// Refuses CPUs that `file` of a group beside this one has, unless that only follows.
fn refuse(group: &Path, wanted: &Cpus, file: &str, why: &str) -> Result<(), Error> {
    let Some(base) = group.parent().filter(|_| !wanted.is_empty()) else { return Ok(()) };
    for other in children(base)?.iter().filter(|other| *other != group && !is_noted(other)) {
        // A kernel without the file has nobody who keeps anything.
        let taken = list(&other.join(file)).unwrap_or_default();
        if let Some(cpu) = taken.intersection(wanted).next() {
            let text = format!("CPU {cpu} is one that {why}: name others in limits.cpu");
            return Err(failed("give CPUs to", group)(io::Error::other(text)));
        }
    }
    Ok(())
}

fn children(group: &Path) -> Result<Vec<PathBuf>, Error> {
    let names = subdirectories(group).map_err(failed("list", group))?;
    Ok(names.into_iter().map(|name| group.join(name)).collect())
}

fn list(path: &Path) -> Result<Cpus, Error> {
    Ok(parse_cpu_list(&read(path)?).unwrap_or_default().into_iter().collect())
}

fn write_list(path: &Path, cpus: &Cpus) -> Result<(), Error> {
    let ids: Vec<u32> = cpus.iter().copied().collect();
    // An empty list must still be a line, or nothing is written at all.
    write(path, &format!("{}\n", format_cpu_list(&ids)))
}

fn is_noted(group: &Path) -> bool {
    rustix::fs::getxattr(group, ALL, &mut [0u8; 1]).is_ok()
}

fn note(group: &Path) -> Result<(), Error> {
    let noted = rustix::fs::setxattr(group, ALL, b"1", XattrFlags::empty());
    noted.map_err(|errno| failed("note the CPUs of", group)(errno.into()))
}

fn forget_note(group: &Path) -> Result<(), Error> {
    let directory = File::open(group).map_err(failed("open", group))?;
    match rustix::fs::fremovexattr(&directory, ALL) {
        Err(Errno::NODATA) => Ok(()),
        other => other.map_err(|errno| failed("forget the CPUs of", group)(errno.into())),
    }
}
