//! Which devices a group may open: in v1 lines of a file, in cgroup2 a program that the kernel asks.

use std::os::fd::OwnedFd;
use std::path::Path;

use kernel::bpf::{self, EXIT, Instruction, LOAD_WORD, MOVE, MOVE_REGISTER, Question, op};
use model::{DeviceRange, Setting};

use super::programs::{self, Asked};
use super::{Error, read, write};

/// Whether groups like this one can be given a program by us.
pub(super) fn can_program(group: &Path) -> bool {
    programs::are_possible(group, Question::Device, || load(&[]))
}

fn load(ranges: &[DeviceRange]) -> kernel::Result<OwnedFd> {
    bpf::load(Question::Device, &program(ranges))
}

/// Has a group ask a program, or none.
pub(super) fn put_program(group: &Path, setting: &Setting) -> Result<(), Error> {
    match setting {
        Setting::Devices(ranges) => programs::put(group, Question::Device, &join(ranges), load(ranges)),
        _ => programs::take(group, Question::Device),
    }
}

/// What a group's program allows.
pub(super) fn programmed(group: &Path) -> Result<Setting, Error> {
    Ok(match programs::asked(group, Question::Device)? {
        Asked::Nothing => Setting::Unlimited,
        // Nobody wishes for a group without any device, so what is not known is replaced.
        Asked::Unknown => Setting::Devices(Vec::new()),
        Asked::Ours(text) => Setting::Devices(split(&text).unwrap_or_default()),
    })
}

fn join(ranges: &[DeviceRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn split(text: &str) -> Option<Vec<DeviceRange>> {
    text.split(',').map(|range| range.parse().ok()).collect()
}

// Registers: the context and answer, what is asked for, and a place to compare in.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operations beside those of every program.
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;

/// `BPF_DEVCG_DEV_CHAR`, and what `BPF_DEVCG_ACC_*` asks for.
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// A program that allows these devices and no others.
///
/// It is given `{access << 16 | kind, major, minor}`. Each range is a row of comparisons, each of which leaves the row when it
/// does not hold; behind the last one stands the answer yes.
fn program(ranges: &[DeviceRange]) -> Vec<Instruction> {
    let mut program = vec![
        op(LOAD_WORD, KIND, CONTEXT, 0, 0),
        op(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        op(AND, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for range in ranges {
        let (read, write) = (range.access.read, range.access.write);
        let refused = MAKE | if read { 0 } else { READ } | if write { 0 } else { WRITE };
        let mut row = vec![(KIND, CHARACTER), (MAJOR, range.major as i32)];
        row.extend(range.minor.map(|minor| (MINOR, minor as i32)));
        // Behind each comparison: the others, two to mask what is asked for, its own comparison, and two for the answer.
        let behind = |at: usize| (row.len() - at - 1 + 5) as i16;
        let compared = row.iter().enumerate();
        program.extend(compared.map(|(at, (register, value))| op(JUMP_UNLESS_EQUAL, *register, 0, behind(at), *value)));
        program.extend([
            op(MOVE_REGISTER, ANSWER, ACCESS, 0, 0),
            op(AND, ANSWER, 0, 0, refused),
            op(JUMP_UNLESS_EQUAL, ANSWER, 0, 2, 0),
            op(MOVE, ANSWER, 0, 0, 1),
            op(EXIT, 0, 0, 0, 0),
        ]);
    }
    program.extend([op(MOVE, ANSWER, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

/// The file of v1 that tells what a group may use.
pub(super) const LIST: &str = "devices.list";

/// What `devices.list` says of a group that may use everything.
const EVERYTHING: &str = "a *:* rwm";

/// Whether a v1 group may hand on everything, so that what a guest's group is given is not refused.
pub(super) fn is_unrestricted(group: &Path) -> bool {
    read(&group.join(LIST)).is_ok_and(|text| text == EVERYTHING)
}

/// Tells a v1 group what it may use: what is new before what is gone, so that nothing that stays is missed in between.
pub(super) fn put_list(group: &Path, setting: &Setting) -> Result<(), Error> {
    let (allow, deny) = (group.join("devices.allow"), group.join("devices.deny"));
    let Setting::Devices(ranges) = setting else { return write(&allow, "a") };
    let text = read(&group.join(LIST))?;
    if text == EVERYTHING {
        write(&deny, "a")?;
    }
    for range in ranges {
        write(&allow, &range.to_string())?;
    }
    for line in text.lines().filter(|line| *line != EVERYTHING) {
        let Some((device, letters)) = line.rsplit_once(' ') else { continue };
        let wanted = ranges.iter().map(ToString::to_string);
        let stays = wanted.filter_map(|range| Some(range.strip_prefix(device)?.strip_prefix(' ')?.to_owned())).next();
        let stays = stays.unwrap_or_default();
        let gone: String = letters.chars().filter(|letter| !stays.contains(*letter)).collect();
        if !gone.is_empty() {
            write(&deny, &format!("{device} {gone}"))?;
        }
    }
    Ok(())
}

/// What a v1 group may use.
pub(super) fn listed(group: &Path) -> Result<Setting, Error> {
    let text = read(&group.join(LIST))?;
    if text == EVERYTHING {
        return Ok(Setting::Unlimited);
    }
    // Lines that are not ours make it differ from whatever is wished for, as a group without any device does.
    let mut ranges: Vec<DeviceRange> =
        text.lines().map(|line| line.parse().ok()).collect::<Option<_>>().unwrap_or_default();
    ranges.sort_unstable();
    Ok(Setting::Devices(ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, by the few operations that ours have.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let (mut registers, mut at) = ([0i32; 6], 0usize);
        loop {
            let now = program[at];
            let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
            at += 1;
            match now.code {
                LOAD_WORD => registers[to] = [access << 16 | kind, major, minor][now.offset as usize / 4],
                MOVE => registers[to] = now.value,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= now.value,
                SHIFT_RIGHT => registers[to] >>= now.value,
                JUMP_UNLESS_EQUAL if registers[to] != now.value => at += now.offset as usize,
                JUMP_UNLESS_EQUAL => {}
                EXIT => return registers[usize::from(ANSWER)],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn a_program_allows_what_it_was_made_for_and_nothing_else() {
        let ranges = split("c 1:3 rw,c 10:229 r,c 136:* rw").expect("ranges");
        let program = program(&ranges);
        for (kind, access, major, minor, answer) in [
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, READ, 1, 3, 1),
            // Only whether it is there.
            (CHARACTER, 0, 1, 3, 1),
            (CHARACTER, MAKE, 1, 3, 0),
            (CHARACTER, MAKE | READ, 1, 3, 0),
            (CHARACTER, READ, 1, 5, 0),
            (CHARACTER, READ, 10, 229, 1),
            (CHARACTER, WRITE, 10, 229, 0),
            (CHARACTER, READ | WRITE, 10, 229, 0),
            (CHARACTER, READ | WRITE, 136, 0, 1),
            (CHARACTER, READ | WRITE, 136, 77, 1),
            (CHARACTER, READ, 137, 0, 0),
            // A block device of the same number.
            (1, READ, 1, 3, 0),
        ] {
            assert_eq!(run(&program, kind, access, major, minor), answer, "{kind} {access} {major}:{minor}");
        }
        assert_eq!(run(&super::program(&[]), CHARACTER, READ, 1, 3), 0);
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let ranges = split("c 1:3 rw,c 136:* r").expect("ranges");
        assert_eq!(split(&join(&ranges)), Some(ranges));
        assert_eq!(split(""), None);
    }
}
