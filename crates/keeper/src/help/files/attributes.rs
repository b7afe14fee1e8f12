//! Attributes of files, read and set; ids are the guest's, as we are in its user namespace.

use std::os::fd::OwnedFd;

use kernel::Errno;
use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid};
use sftp::Attributes;

use super::path::Refusal;

/// As the protocol has them.
pub(super) fn of(stat: &Stat) -> Attributes {
    // Seconds of a u32: what lies before 1970 or after 2106 cannot be said.
    let seconds = |time: i64| time.clamp(0, i64::from(u32::MAX)) as u32;
    Attributes {
        size: Some(stat.st_size as u64),
        owner: Some((stat.st_uid, stat.st_gid)),
        mode: Some(stat.st_mode),
        times: Some((seconds(stat.st_atime), seconds(stat.st_mtime))),
    }
}

/// Permissions that were asked for, or a default.
pub(super) fn mode(attributes: &Attributes, default: u32) -> Mode {
    Mode::from_raw_mode(attributes.mode.map_or(default, |mode| mode & 0o7777))
}

/// Sets what is said, on something open.
pub(super) fn apply(fd: &OwnedFd, attributes: &Attributes) -> Result<(), Refusal> {
    if let Some(size) = attributes.size {
        rustix::fs::ftruncate(fd, size)?;
    }
    // Before the mode: a change of owner takes the set-user-ID bit away.
    if let Some((user, group)) = attributes.owner {
        let id = |id: u32| (id != u32::MAX).then_some(id);
        let changed = rustix::fs::fchown(fd, id(user).map(Uid::from_raw), id(group).map(Gid::from_raw));
        if changed == Err(Errno::INVAL) {
            return Err(Refusal::failure("the instance has no such user or group id"));
        }
        changed?;
    }
    if attributes.mode.is_some() {
        rustix::fs::fchmod(fd, mode(attributes, 0))?;
    }
    if let Some((access, modification)) = attributes.times {
        let time = |seconds: u32| Timespec { tv_sec: i64::from(seconds), tv_nsec: 0 };
        rustix::fs::futimens(fd, &Timestamps { last_access: time(access), last_modification: time(modification) })?;
    }
    Ok(())
}

/// The line of a long listing, for clients that show it as it is.
pub(super) fn line(name: &[u8], stat: &Stat) -> Vec<u8> {
    let kind = match stat.st_mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut permissions = String::from(kind);
    for (at, letter) in "rwxrwxrwx".chars().enumerate() {
        permissions.push(if stat.st_mode & (0o400 >> at) != 0 { letter } else { '-' });
    }
    let (year, month, day, minutes) = date(stat.st_mtime);
    let mut line = format!(
        "{permissions} {:4} {:<8} {:<8} {:>10} {year:04}-{month:02}-{day:02} {:02}:{:02} ",
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        stat.st_size,
        minutes / 60,
        minutes % 60
    )
    .into_bytes();
    line.extend_from_slice(name);
    line
}

/// Year, month, day and minutes of the day (UTC) of a time in seconds since 1970.
fn date(time: i64) -> (i64, i64, i64, i64) {
    let days = time.div_euclid(86_400);
    // Years that begin in March put the leap day at their end; 400 of them have 146,097 days, of which the first began on
    // the day -719,468.
    let day_of_era = (days + 719_468).rem_euclid(146_097);
    let era = (days + 719_468).div_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * march_month + 2) / 5 + 1, time.rem_euclid(86_400) / 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (time, date) in [
            (0, (1970, 1, 1, 0)),
            (951_782_399, (2000, 2, 28, 23 * 60 + 59)),
            (951_782_400, (2000, 2, 29, 0)),
            (1_795_352_773, (2026, 11, 22, 13 * 60 + 6)),
            (-1, (1969, 12, 31, 23 * 60 + 59)),
        ] {
            assert_eq!(super::date(time), date, "{time}");
        }
    }
}
