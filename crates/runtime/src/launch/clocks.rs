//! Clocks of a guest's own: how long it has been up, and not how long the host has (time_namespaces(7)).

use kernel::Errno;
use kernel::process::{Namespaces, SingleThread};
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::protocol::{Clocks, Failure};

const OFFSETS: &str = "/proc/self/timens_offsets";

fn failed(call: &'static str, target: &str) -> impl Fn(Errno) -> Failure {
    let target = target.to_owned();
    move |errno| Failure::new("clocks", call, target.clone(), errno)
}

/// Makes a time namespace for the children of the calling process and sets its clocks.
///
/// It belongs to the host's user namespace, so the guest cannot change it; and once the first child is in it, nobody can.
pub fn make(proof: SingleThread, clocks: &Clocks) -> Result<(), Failure> {
    kernel::process::unshare(proof, Namespaces::TIME).map_err(failed("unshare(time)", ""))?;
    let file =
        rustix::fs::open(OFFSETS, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", OFFSETS))?;
    let text = format!(
        "monotonic {}\nboottime {}\n",
        offset(clocks, clock_gettime(ClockId::Monotonic)),
        offset(clocks, clock_gettime(ClockId::Boottime))
    );
    rustix::io::write(&file, text.as_bytes())
        .map(drop)
        .map_err(failed("write", &format!("{OFFSETS} ({})", text.trim())))
}

/// Seconds and nanoseconds to add to a clock, as the kernel takes them: the nanoseconds are never negative.
fn offset(clocks: &Clocks, now: Timespec) -> String {
    match (clocks.from_zero, now.tv_nsec) {
        (false, _) => format!("{} 0", clocks.offset_s),
        (true, 0) => format!("{} 0", -now.tv_sec),
        (true, nanoseconds) => format!("{} {}", -now.tv_sec - 1, 1_000_000_000 - nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_from_zero_is_taken_back_by_what_it_shows() {
        let zero = Clocks { from_zero: true, offset_s: 0 };
        let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        assert_eq!(offset(&zero, at(100, 250_000_000)), "-101 750000000");
        assert_eq!(offset(&zero, at(100, 0)), "-100 0");
        let later = Clocks { from_zero: false, offset_s: 86_400 };
        assert_eq!(offset(&later, at(5, 5)), "86400 0");
    }
}
