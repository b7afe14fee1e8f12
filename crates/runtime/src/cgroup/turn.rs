//! Turning several knobs of one group: in an order that is safe on the way, all of them or none.

use std::time::Instant;

use model::{Knob, KnobChange, Partition, Setting, Settings};

use super::{Controllers, Error};

/// When a knob is turned, so that what must be below something else is below it at every moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// What is below a ceiling goes down before the ceiling does.
    LowerInner,
    /// More room.
    Raise,
    /// Less room: the only turn that a kernel refuses because of what is in use.
    Lower,
    /// What is below a ceiling goes up after the ceiling did.
    RaiseInner,
}

/// Turns knobs from what they are at to what they should be at. After a failure all of them are as they were.
pub(super) fn turn(controllers: &dyn Controllers, group: &str, wanted: &Settings) -> Result<Vec<KnobChange>, Error> {
    let mut turns = Vec::new();
    for (knob, new) in wanted {
        let old = controllers.read(group, *knob)?;
        if old != *new {
            turns.push((when(*knob, &old, new), *knob, old, new.clone()));
        }
    }
    turns.sort_by_key(|(turn, knob, ..)| (*turn, *knob));
    let mut changes: Vec<KnobChange> = Vec::with_capacity(turns.len());
    for (_, knob, old, new) in turns {
        let begun = Instant::now();
        match controllers.write(group, knob, &new) {
            Ok(file) => changes.push(KnobChange {
                knob,
                file: file.display().to_string(),
                old,
                new,
                us: begun.elapsed().as_micros() as u64,
            }),
            Err(error) => {
                // A knob of several files may have been turned in part.
                let _ = controllers.write(group, knob, &old);
                // Backwards each write undoes one that was safe, and gives back what was in use.
                for change in changes.iter().rev() {
                    controllers.write(group, change.knob, &change.old)?;
                }
                return Err(error);
            }
        }
    }
    Ok(changes)
}

fn when(knob: Knob, old: &Setting, new: &Setting) -> Turn {
    let inner = match knob {
        Knob::MemoryMin | Knob::MemoryLow | Knob::MemoryHigh | Knob::CpuMaxBurst | Knob::CpuUclampMin => true,
        Knob::MemoryMax
        | Knob::MemorySwapMax
        | Knob::MemoryZswapMax
        | Knob::MemoryOomGroup
        | Knob::CpuMax
        | Knob::CpuIdle
        | Knob::CpuWeight
        | Knob::CpuUclampMax
        | Knob::CpusetCpus
        | Knob::PidsMax
        | Knob::IoMax
        | Knob::IoWeight
        | Knob::IoLatency
        | Knob::Hugetlb64KBMax
        | Knob::Hugetlb1MBMax
        | Knob::Hugetlb2MBMax
        | Knob::Hugetlb1GBMax
        | Knob::CpusetPartition
        | Knob::RdmaMax
        | Knob::MiscMax
        | Knob::Devices
        | Knob::NetworkIngress
        | Knob::NetworkEgress => false,
    };
    match (inner, size(new) < size(old)) {
        // Before the weight, which an idle group does not take.
        _ if knob == Knob::CpuIdle => Turn::Raise,
        // Of the CPUs as they are in the end, and given up while they are as they were.
        _ if *new == Setting::Partition(Partition::Member) => Turn::LowerInner,
        _ if knob == Knob::CpusetPartition => Turn::RaiseInner,
        (true, true) => Turn::LowerInner,
        (false, false) => Turn::Raise,
        (false, true) => Turn::Lower,
        (true, false) => Turn::RaiseInner,
    }
}

/// How much a setting allows, for comparing two of the same knob.
fn size(setting: &Setting) -> u64 {
    match setting {
        Setting::Unlimited => u64::MAX,
        Setting::Number(n) | Setting::Latency(_, n) => *n,
        // The quota alone is what a burst must not be above.
        Setting::Quota(quota, _) => *quota,
        // None means all of the parent's.
        Setting::Cpus(ids) if ids.is_empty() => u64::MAX,
        Setting::Cpus(ids) => ids.len() as u64,
        Setting::Devices(ranges) => ranges.len() as u64,
        // These are above and below nothing.
        Setting::Disk(..) | Setting::Partition(_) | Setting::Rdma(_) | Setting::Misc(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::sync::Mutex;

    use model::scale::Trigger;
    use model::{Bites, GroupUsage, Hits};

    use super::super::need::Notice;

    use super::*;

    /// Controllers with the kernel's rules between knobs, which refuse the n-th write.
    #[derive(Debug)]
    struct Strict {
        settings: Mutex<Settings>,
        refuse: Mutex<Option<usize>>,
        log: Mutex<Vec<Knob>>,
    }

    impl Strict {
        fn new(settings: &[(Knob, Setting)], refuse: Option<usize>) -> Strict {
            Strict {
                settings: Mutex::new(settings.iter().cloned().collect()),
                refuse: Mutex::new(refuse),
                log: Mutex::default(),
            }
        }

        fn at(&self, knob: Knob) -> u64 {
            self.settings.lock().expect("lock").get(&knob).map_or_else(|| size(&knob.initial()), size)
        }
    }

    fn refused() -> Error {
        Error { act: "write", path: "x".into(), source: io::Error::from_raw_os_error(16) }
    }

    impl Controllers for Strict {
        fn prepare(&self) -> Result<(), Error> {
            Ok(())
        }
        fn create(&self, _group: &str) -> Result<bool, Error> {
            Ok(true)
        }
        fn remove(&self, _group: &str) -> Result<(), Error> {
            Ok(())
        }
        fn knobs(&self) -> BTreeSet<Knob> {
            Knob::ALL.into()
        }
        fn write(&self, _group: &str, knob: Knob, setting: &Setting) -> Result<PathBuf, Error> {
            let mut refuse = self.refuse.lock().expect("lock");
            match *refuse {
                Some(0) => {
                    *refuse = None;
                    return Err(refused());
                }
                Some(n) => *refuse = Some(n - 1),
                None => {}
            }
            self.settings.lock().expect("lock").insert(knob, setting.clone());
            self.log.lock().expect("lock").push(knob);
            for (inner, outer) in [
                (Knob::MemoryMin, Knob::MemoryMax),
                (Knob::MemoryLow, Knob::MemoryMax),
                (Knob::CpuMaxBurst, Knob::CpuMax),
                (Knob::CpuUclampMin, Knob::CpuUclampMax),
            ] {
                assert!(self.at(inner) <= self.at(outer), "{inner:?} above {outer:?}");
            }
            Ok(PathBuf::from(knob.file()))
        }
        fn read(&self, _group: &str, knob: Knob) -> Result<Setting, Error> {
            Ok(self.settings.lock().expect("lock").get(&knob).cloned().unwrap_or_else(|| knob.initial()))
        }
        fn extra_groups(&self, _group: &str) -> Vec<PathBuf> {
            Vec::new()
        }
        fn usage(&self, _group: &str) -> GroupUsage {
            GroupUsage::default()
        }
        fn hits(&self, _group: &str) -> Hits {
            Hits::default()
        }
        fn bites(&self, _group: &str) -> Bites {
            Bites::default()
        }
        fn hit_files(&self, _group: &str) -> Vec<PathBuf> {
            Vec::new()
        }
        fn file(&self, _group: &str, knob: Knob) -> PathBuf {
            PathBuf::from(knob.file())
        }
        fn oom_notices(&self) -> kernel::Result<OwnedFd> {
            Err(kernel::Errno::NOSYS)
        }
        fn watch_oom(&self, _group: &str, _notices: &OwnedFd) -> Result<(), Error> {
            Ok(())
        }
        fn memory_need(&self, _group: &str, _level: u64, _when: Trigger) -> Result<Notice, Error> {
            Err(refused())
        }
        fn tells_of_use(&self) -> bool {
            false
        }
        fn take_memory(&self, _group: &str, _down_to: u64) -> Result<(), Error> {
            Ok(())
        }
        fn extra_names(&self) -> BTreeSet<String> {
            BTreeSet::new()
        }
    }

    fn level(n: u64) -> Vec<(Knob, Setting)> {
        vec![
            (Knob::MemoryMin, Setting::Number(n)),
            (Knob::MemoryLow, Setting::Number(n * 2)),
            (Knob::MemoryHigh, Setting::Number(n * 3)),
            (Knob::MemoryMax, Setting::Number(n * 4)),
            (Knob::CpuMax, Setting::Quota(n * 10, 100_000)),
            (Knob::CpuMaxBurst, Setting::Number(n * 10)),
            (Knob::CpuUclampMin, Setting::Number(n)),
            (Knob::CpuUclampMax, Setting::Number(n)),
        ]
    }

    #[test]
    fn ranges_are_the_right_way_up_at_every_moment_in_both_directions() {
        for (from, to) in [(1, 100), (100, 1), (10, 11), (11, 10)] {
            let controllers = Strict::new(&level(from), None);
            let wanted: Settings = level(to).into_iter().collect();
            let changes = turn(&controllers, "g", &wanted).expect("turned");
            assert_eq!(*controllers.settings.lock().expect("lock"), wanted);
            let at = |knob| changes.iter().position(|change| change.knob == knob).expect("turned");
            let raised = to > from;
            assert_eq!(at(Knob::MemoryMax) < at(Knob::MemoryHigh), raised, "{from} to {to}");
            assert_eq!(at(Knob::CpuMax) < at(Knob::CpuMaxBurst), raised, "{from} to {to}");
        }
    }

    #[test]
    fn a_refused_write_leaves_every_knob_as_it_was() {
        for (from, to) in [(1, 100), (100, 1)] {
            for n in 0..level(1).len() {
                let controllers = Strict::new(&level(from), Some(n));
                let wanted: Settings = level(to).into_iter().collect();
                turn(&controllers, "g", &wanted).expect_err("refused");
                let before: Settings = level(from).into_iter().collect();
                assert_eq!(*controllers.settings.lock().expect("lock"), before, "write {n} refused");
            }
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written() {
        let controllers = Strict::new(&level(5), None);
        let mut wanted: Settings = level(5).into_iter().collect();
        assert_eq!(turn(&controllers, "g", &wanted).expect("turned"), []);
        wanted.insert(Knob::CpuIdle, Setting::Number(0));
        wanted.insert(Knob::PidsMax, Setting::Number(9));
        let changes = turn(&controllers, "g", &wanted).expect("turned");
        assert_eq!(*controllers.log.lock().expect("lock"), [Knob::PidsMax]);
        assert_eq!((&changes[0].old, &changes[0].new), (&Setting::Unlimited, &Setting::Number(9)));
    }

    #[test]
    fn an_idle_group_is_awake_before_it_is_given_a_weight() {
        let controllers =
            Strict::new(&[(Knob::CpuIdle, Setting::Number(1)), (Knob::CpuWeight, Setting::Number(1))], None);
        let wanted = [(Knob::CpuIdle, Setting::Number(0)), (Knob::CpuWeight, Setting::Number(50))].into();
        turn(&controllers, "g", &wanted).expect("turned");
        assert_eq!(*controllers.log.lock().expect("lock"), [Knob::CpuIdle, Knob::CpuWeight]);
    }
}
