//! A program that counts bytes: it lets so many pass each second, and may say how urgent they are.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::Result;
use crate::bpf::{self, EXIT, Instruction, LOAD_WORD, MOVE, MOVE_REGISTER, Question, op};

/// Bytes that pass at once however low the rate: the largest packets that the kernel hands on in one piece, four times.
const BURST_BYTES: u64 = 256 << 10;

/// Of a rate so much of a second passes at once. What is dropped at a link nobody tells its sender, who then waits for 200 ms
/// and more (`TCP_RTO_MIN`): that time is not lost.
fn burst_ns(question: Question) -> u64 {
    match question {
        Question::Device | Question::PacketIn | Question::PacketOut => 100_000_000,
        Question::Link => 500_000_000,
    }
}

const SECOND_NS: i32 = 1_000_000_000;

/// How often the program tries to count a packet while other processors count theirs; then it lets it pass.
const TRIES: usize = 4;

/// A program about packets, with the rate in bytes each second that it holds them to and the priority that it gives them.
pub fn load(question: Question, bytes_per_second: Option<u64>, priority: Option<u32>) -> Result<OwnedFd> {
    let cell = bpf::cell()?;
    bpf::load(question, &program(question, bytes_per_second, priority, cell.as_fd()))
}

// Registers: the answer, what is given, three to count with, the rate, and those that a call leaves alone.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const BEFORE: u8 = 2;
const AFTER: u8 = 3;
const AHEAD: u8 = 4;
const RATE: u8 = 5;
const COST: u8 = 6;
const BURST: u8 = 7;
const NOW: u8 = 8;
const CELL: u8 = 9;

// Operations beside those of every program.
const LOAD_DOUBLE: u8 = 0x79;
const LOAD_CONSTANT: u8 = 0x18;
const EXCHANGE_IF_SAME: (u8, i32) = (0xdb, 0xf1);
const ADD: u8 = 0x0f;
const SUBTRACT: u8 = 0x1f;
const ADD_NUMBER: u8 = 0x07;
const MULTIPLY: u8 = 0x2f;
const MULTIPLY_BY: u8 = 0x27;
const DIVIDE: u8 = 0x3f;
const JUMP_IF_IS: u8 = 0x15;
const JUMP_IF_NOT_ABOVE: u8 = 0xb5;
const JUMP_IF_SAME: u8 = 0x1d;
const JUMP_IF_MORE: u8 = 0x2d;
const JUMP_IF_NOT_LESS: u8 = 0x3d;
const CALL: u8 = 0x85;
const STORE_WORD: u8 = 0x63;

/// The helper that tells nanoseconds (`bpf_ktime_get_ns`).
const CLOCK: i32 = 5;

/// Offsets in `struct __sk_buff`.
const LENGTH: i16 = 0;
const PRIORITY: i16 = 32;
const LINK: i16 = 40;

/// The index of the loopback in every network namespace.
const LOOPBACK: i32 = 1;

/// In the source of a constant: it is the address of a map's value, by the map's descriptor.
const VALUE_OF_MAP: u8 = 2;

/// Instructions of one try.
const TRY: usize = 11;

/// Of how many parts a burst is what is not urgent at all may have, and how many more what is most urgent.
const PARTS: u64 = 8;

/// The program.
fn program(
    question: Question,
    bytes_per_second: Option<u64>,
    priority: Option<u32>,
    cell: BorrowedFd<'_>,
) -> Vec<Instruction> {
    let (passed, dropped) = answers(question);
    let mut program = Vec::new();
    // How urgent it came is another thing than how urgent it goes on.
    if bytes_per_second.is_some() && question == Question::Link {
        program.push(op(LOAD_WORD, BURST, CONTEXT, PRIORITY, 0));
    }
    if let Some(priority) = priority {
        program.extend([op(MOVE, BEFORE, 0, 0, priority as i32), op(STORE_WORD, CONTEXT, BEFORE, PRIORITY, 0)]);
    }
    if let Some(rate) = bytes_per_second {
        hold_to(rate, question, cell, &mut program);
    }
    program.extend([op(MOVE, ANSWER, 0, 0, passed), op(EXIT, 0, 0, 0, 0)]);
    // What nothing leads to the kernel refuses.
    if bytes_per_second.is_some() {
        program.extend([op(MOVE, ANSWER, 0, 0, dropped), op(EXIT, 0, 0, 0, 0)]);
    }
    program
}

/// What lets a packet pass, and what drops it.
fn answers(question: Question) -> (i32, i32) {
    match question {
        Question::Device | Question::PacketIn => (1, 0),
        Question::PacketOut => (1, 2),
        // TC_ACT_UNSPEC, which leaves it to whoever is asked next, and TC_ACT_SHOT (`linux/pkt_cls.h`).
        Question::Link => (-1, 2),
    }
}

/// A packet costs the time that it takes at the rate, and the cell says until when time is given away. A packet
/// that would give away more than the burst from now on does not pass.
///
/// At a link the burst is the longer the more urgent a packet came. So while there is more that is urgent than may pass, what
/// is less urgent finds more given away than it may add to: urgent packets go first without anything having to wait.
///
/// Behind it must stand two instructions that let the packet pass, and behind them two that drop it.
fn hold_to(bytes_per_second: u64, question: Question, cell: BorrowedFd<'_>, program: &mut Vec<Instruction>) {
    let constant = |to: u8, value: u64| {
        [op(LOAD_CONSTANT, to, 0, 0, value as u32 as i32), op(0, 0, 0, 0, (value >> 32) as u32 as i32)]
    };
    let rate = bytes_per_second.max(1);
    let burst_ns = burst_ns(question).max(BURST_BYTES.saturating_mul(SECOND_NS as u64) / rate);
    let mut counting = vec![op(LOAD_WORD, COST, CONTEXT, LENGTH, 0), op(MULTIPLY_BY, COST, 0, 0, SECOND_NS)];
    counting.extend(constant(RATE, rate));
    counting.push(op(DIVIDE, COST, RATE, 0, 0));
    if question == Question::Link {
        let parts = PARTS as i32;
        counting.extend([op(JUMP_IF_NOT_ABOVE, BURST, 0, 1, parts), op(MOVE, BURST, 0, 0, parts)]);
        counting.push(op(ADD_NUMBER, BURST, 0, 0, parts));
        counting.extend(constant(RATE, burst_ns / PARTS));
        counting.push(op(MULTIPLY, BURST, RATE, 0, 0));
    } else {
        counting.extend(constant(BURST, burst_ns));
    }
    counting.extend([op(CALL, 0, 0, 0, CLOCK), op(MOVE_REGISTER, NOW, ANSWER, 0, 0)]);
    counting.extend([op(LOAD_CONSTANT, CELL, VALUE_OF_MAP, 0, cell.as_raw_fd()), op(0, 0, 0, 0, 0)]);
    program.push(op(LOAD_WORD, BEFORE, CONTEXT, LINK, 0));
    let rest = counting.len() + TRIES * TRY;
    program.push(op(JUMP_IF_IS, BEFORE, 0, rest as i16, LOOPBACK));
    program.extend(counting);
    for left in (0..TRIES).rev() {
        let (yes, no) = ((left * TRY) as i16, (left * TRY + 2) as i16);
        program.extend([
            op(LOAD_DOUBLE, BEFORE, CELL, 0, 0),
            op(MOVE_REGISTER, AFTER, BEFORE, 0, 0),
            op(JUMP_IF_NOT_LESS, AFTER, NOW, 1, 0),
            op(MOVE_REGISTER, AFTER, NOW, 0, 0),
            op(ADD, AFTER, COST, 0, 0),
            op(MOVE_REGISTER, AHEAD, AFTER, 0, 0),
            op(SUBTRACT, AHEAD, NOW, 0, 0),
            op(JUMP_IF_MORE, AHEAD, BURST, no + 3, 0),
            op(MOVE_REGISTER, ANSWER, BEFORE, 0, 0),
            op(EXCHANGE_IF_SAME.0, CELL, AFTER, 0, EXCHANGE_IF_SAME.1),
            op(JUMP_IF_SAME, ANSWER, BEFORE, yes, 0),
        ]);
    }
}
