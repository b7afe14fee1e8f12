//! `help files`: the files of one instance, over SFTP on descriptor 3, until its peer closes.
//!
//! ```text
//! help files --pid PID --start START --ids BASE:COUNT        a guest that runs; START as in /proc/PID/stat
//! help files --root HEX --scratch DIR --ids BASE:COUNT       a root file system at rest; HEX is a RootSpec record
//! ```
//!
//! We serve as the guest's own root, in its user and mount namespaces, so that we reach nothing which it could not reach
//! itself, and ids are the guest's without any translation. On top of that every path is looked up below the guest's `/`
//! by `openat2`, only regular files and directories are opened, and files that are windows into the kernel are refused:
//! our other namespaces are the host's, and such files show the namespaces of whoever opens them.
//!
//! It ends, too, when the guest does or when somebody wants to mount the root file system: an idle session holds nobody up.

mod attributes;
mod confine;
mod enter;
mod handles;
mod operations;
mod path;
mod serve;

use std::process::ExitCode;

use kernel::process::SingleThread;
use runtime::protocol::RootSpec;
use runtime::wire::Field;

use super::from_hex;

/// Whose files.
enum Job<'a> {
    Running { pid: u32, start: u64, ids: Ids },
    Stopped { root: RootSpec, scratch: &'a str, ids: Ids },
}

/// A range of ids: the guest's 0 is `base` on the host.
#[derive(Clone, Copy)]
struct Ids {
    base: u32,
    count: u32,
}

fn parse<'a>(words: &[&'a str]) -> Option<Job<'a>> {
    match words {
        ["--pid", pid, "--start", start, "--ids", ids] => {
            Some(Job::Running { pid: pid.parse().ok()?, start: start.parse().ok()?, ids: parse_ids(ids)? })
        }
        ["--root", record, "--scratch", scratch, "--ids", ids] => {
            Some(Job::Stopped { root: RootSpec::take(&from_hex(record)?)?, scratch, ids: parse_ids(ids)? })
        }
        _ => None,
    }
}

fn parse_ids(text: &str) -> Option<Ids> {
    let (base, count) = text.split_once(':')?;
    let ids = Ids { base: base.parse().ok()?, count: count.parse().ok()? };
    // The host's own ids are never a guest's.
    (ids.base > 0 && ids.count > 0 && ids.base.checked_add(ids.count).is_some()).then_some(ids)
}

/// Runs the helper.
pub(crate) fn run(proof: SingleThread, words: &[&str]) -> ExitCode {
    let Ok(socket) = kernel::process::inherit(3) else { return crate::fail("help files", "no socket at 3") };
    let Some(job) = parse(words) else {
        return crate::fail("help files", "--pid PID --start START --ids B:N | --root HEX --scratch DIR --ids B:N");
    };
    let entered = match &job {
        Job::Running { pid, start, ids } => enter::running(proof, *pid, *start, *ids),
        Job::Stopped { root, scratch, ids } => enter::stopped(proof, root, scratch, *ids),
    };
    let served = entered.and_then(|place| {
        confine::confine(&place)?;
        serve::serve(&socket, place);
        Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            serve::refuse(&socket, &failure.to_string());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_as_the_daemon_makes_them_and_no_others() {
        let spec = RootSpec { pool: "/pool".into(), layers: vec!["layers/x".into()], way: 2, ..RootSpec::default() };
        let mut record = Vec::new();
        spec.put(&mut record);
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        match parse(&["--root", &hex, "--scratch", "/run/mnt", "--ids", "100000:65536"]) {
            Some(Job::Stopped { root, scratch: "/run/mnt", ids: Ids { base: 100_000, count: 65_536 } }) => {
                assert_eq!(root, spec);
            }
            _ => panic!("a root file system at rest"),
        }
        assert!(matches!(
            parse(&["--pid", "7", "--start", "99", "--ids", "1:1"]),
            Some(Job::Running { pid: 7, start: 99, .. })
        ));
        for ids in ["0:65536", "1", "1:0", "4294967295:2", "-1:2", ""] {
            assert!(parse(&["--pid", "7", "--start", "99", "--ids", ids]).is_none(), "{ids}");
        }
        for record in ["0", "zz", "01ffffffff"] {
            assert!(parse(&["--root", record, "--scratch", "/", "--ids", "1:1"]).is_none(), "{record}");
        }
        assert!(parse(&["--pid", "7"]).is_none());
    }
}
