//! Which frames of a bridge the gateway gets to see, as a classic BPF program that the kernel runs over each.
//!
//! Nearly all frames are not for us, so the program decides as early as it can; the common case of a TCP segment ends
//! after four comparisons. It looks at the frame from its first byte on:
//!
//! ```text
//!  0 receiver   6 sender   12 type        (a tag was taken off before, and stands beside the frame)
//! 14 IPv4: +0 header length, +6 fragment, +9 protocol, +16 receiver; UDP: +2 port, behind the header
//! 14 IPv6: +6 protocol, +24 receiver; UDP at 54: +2 port; ICMPv6 at 54: +0 type
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use kernel::seccomp::Instruction;

// Operations of linux/filter.h: load a word, half or byte from a fixed place; a half behind the IP header (whose length
// is in X); X = length of the IPv4 header; jump if equal; if greater; if any bit is set; end.
pub(crate) const LOAD_WORD: u16 = 0x20;
pub(crate) const LOAD_HALF: u16 = 0x28;
pub(crate) const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_BEHIND_X: u16 = 0x48;
const X_IS_HEADER_LENGTH: u16 = 0xb1;
pub(crate) const JUMP_EQUAL: u16 = 0x15;
pub(crate) const JUMP_ABOVE: u16 = 0x25;
const JUMP_ANY_BIT: u16 = 0x45;
pub(crate) const RETURN: u16 = 0x06;
/// Not a place in the frame but the kernel's word on whether it carried a VLAN tag.
const TAG_PRESENT: u32 = 0xffff_f000 + 48;

const DHCP: u32 = 67;
const DNS: u32 = 53;
const UDP: u32 = 17;
pub(crate) const ICMPV6: u32 = 58;
const ROUTER_SOLICITATION: u32 = 133;
/// Frames are cut to so many bytes: more than any question takes.
pub const LONGEST_FRAME: usize = 2048;

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Next,
    Reject,
    Accept,
    Ipv6,
    SixUdp,
    Icmp6,
}

/// A line of a program.
pub(crate) enum Line {
    Here(To),
    Do(u16, u32),
    If(u16, u32, To, To),
}

/// The program for a gateway with these addresses: lets through UDP to port 67, UDP to port 53 of the gateway's
/// addresses and router solicitations, of untagged and unfragmented frames.
pub fn program(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> Vec<Instruction> {
    use Line::{Do, Here, If};
    let mut lines = vec![
        Do(LOAD_WORD, TAG_PRESENT),
        If(JUMP_EQUAL, 0, To::Next, To::Reject),
        Do(LOAD_HALF, 12),
        If(JUMP_EQUAL, 0x86dd, To::Ipv6, To::Next),
        If(JUMP_EQUAL, 0x0800, To::Next, To::Reject),
        // IPv4
        Do(LOAD_BYTE, 14 + 9),
        If(JUMP_EQUAL, UDP, To::Next, To::Reject),
        Do(LOAD_HALF, 14 + 6),
        If(JUMP_ANY_BIT, 0x3fff, To::Reject, To::Next),
        Do(X_IS_HEADER_LENGTH, 14),
        Do(LOAD_HALF_BEHIND_X, 14 + 2),
        If(JUMP_EQUAL, DHCP, To::Accept, To::Next),
    ];
    if let Some(address) = ipv4 {
        lines.extend([
            If(JUMP_EQUAL, DNS, To::Next, To::Reject),
            Do(LOAD_WORD, 14 + 16),
            If(JUMP_EQUAL, u32::from(address), To::Accept, To::Reject),
        ]);
    } else {
        lines.push(Do(RETURN, 0));
    }
    lines.extend([
        Here(To::Ipv6),
        Do(LOAD_BYTE, 14 + 6),
        If(JUMP_EQUAL, ICMPV6, To::Icmp6, To::Next),
        If(JUMP_EQUAL, UDP, To::SixUdp, To::Reject),
        Here(To::SixUdp),
    ]);
    if let Some(address) = ipv6 {
        lines.extend([Do(LOAD_HALF, 54 + 2), If(JUMP_EQUAL, DNS, To::Next, To::Reject)]);
        let bits = u128::from(address);
        for (n, offset) in (0..4).zip([96, 64, 32, 0]) {
            let to = if n == 3 { To::Accept } else { To::Next };
            lines.push(Do(LOAD_WORD, 14 + 24 + n * 4));
            lines.push(If(JUMP_EQUAL, (bits >> offset) as u32, to, To::Reject));
        }
    } else {
        lines.push(Do(RETURN, 0));
    }
    lines.extend([
        Here(To::Icmp6),
        Do(LOAD_BYTE, 54),
        If(JUMP_EQUAL, ROUTER_SOLICITATION, To::Accept, To::Reject),
        Here(To::Accept),
        Do(RETURN, LONGEST_FRAME as u32),
        Here(To::Reject),
        Do(RETURN, 0),
    ]);
    assemble(&lines)
}

/// Turns names of places into distances. Jumps only lead forward, and the program is far shorter than the 255 lines
/// that a distance can span.
pub(crate) fn assemble(lines: &[Line]) -> Vec<Instruction> {
    let mut places = Vec::new();
    let mut count = 0u8;
    for line in lines {
        match line {
            Line::Here(place) => places.push((*place, count)),
            Line::Do(..) | Line::If(..) => count += 1,
        }
    }
    let distance = |to: To, from: u8| match places.iter().find(|(place, _)| *place == to) {
        Some((_, at)) => at - from - 1,
        None => 0, // the next line
    };
    let mut program = Vec::with_capacity(usize::from(count));
    for line in lines {
        let at = program.len() as u8;
        match *line {
            Line::Here(_) => {}
            Line::Do(code, value) => program.push(Instruction { code, jump_true: 0, jump_false: 0, value }),
            Line::If(code, value, yes, no) => {
                let (jump_true, jump_false) = (distance(yes, at), distance(no, at));
                program.push(Instruction { code, jump_true, jump_false, value });
            }
        }
    }
    program
}

/// What the kernel does with a program: a load outside the frame ends it with 0. `word` is the kernel's word beside the frame.
#[cfg(test)]
pub(crate) fn run(program: &[Instruction], frame: &[u8], word: u32) -> Option<u32> {
    let load = |at: usize, length: usize| {
        let bytes = frame.get(at..at + length)?;
        Some(bytes.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
    };
    let (mut a, mut x, mut at) = (0, 0, 0);
    loop {
        let line = program[at];
        let k = line.value as usize;
        at += 1;
        match line.code {
            LOAD_WORD | LOAD_BYTE if line.value >= 0xffff_f000 => a = word,
            LOAD_WORD => a = load(k, 4)?,
            LOAD_HALF => a = load(k, 2)?,
            LOAD_BYTE => a = load(k, 1)?,
            LOAD_HALF_BEHIND_X => a = load(k + x, 2)?,
            X_IS_HEADER_LENGTH => x = (load(k, 1)? as usize & 15) * 4,
            JUMP_EQUAL => at += usize::from(if a == line.value { line.jump_true } else { line.jump_false }),
            JUMP_ABOVE => at += usize::from(if a > line.value { line.jump_true } else { line.jump_false }),
            JUMP_ANY_BIT => at += usize::from(if a & line.value != 0 { line.jump_true } else { line.jump_false }),
            RETURN => return Some(line.value),
            code => panic!("operation {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use model::Mac;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Datagram, Icmp6};

    fn passes(frame: &[u8]) -> bool {
        let program = program(Some(Ipv4Addr::new(10, 9, 1, 1)), "fd00:9:1::1".parse().ok());
        run(&program, frame, 0).unwrap_or(0) > 0
    }

    fn udp(to: &str) -> Vec<u8> {
        let to: SocketAddr = to.parse().expect(to);
        let from = if to.is_ipv4() { "10.9.1.2:999" } else { "[fd00:9:1::2]:999" };
        let from = from.parse().expect("address");
        let mac = Mac([2; 6]);
        Datagram { to_mac: mac, from_mac: mac, to, from, payload: b"question" }.write().expect("short enough")
    }

    fn icmp6(kind: u8) -> Vec<u8> {
        let (mac, to) = (Mac([2; 6]), Ipv6Addr::LOCALHOST);
        Icmp6 { to_mac: mac, from_mac: mac, to, from: to, message: &[kind, 0, 0, 0] }.write().expect("a frame")
    }

    #[test]
    fn questions_to_the_gateway_pass_and_nothing_else_does() {
        for yes in ["255.255.255.255:67", "10.9.1.1:67", "10.9.1.1:53", "[fd00:9:1::1]:53"] {
            assert!(passes(&udp(yes)), "{yes}");
        }
        for no in ["10.9.1.1:54", "10.9.1.3:53", "8.8.8.8:53", "[fd00:9:1::2]:53", "[fd00:9:2::1]:53", "[::1]:67"] {
            assert!(!passes(&udp(no)), "{no}");
        }
        assert!(passes(&icmp6(133)));
        assert!(!passes(&icmp6(134)) && !passes(&icmp6(135)));
        let program = program(None, None);
        assert_eq!(run(&program, &udp("10.9.1.1:53"), 0), Some(0));
        assert_eq!(run(&program, &udp("[fd00:9:1::1]:53"), 0), Some(0));
        assert_eq!(run(&program, &udp("10.9.1.1:67"), 0), Some(LONGEST_FRAME as u32));
    }

    #[test]
    fn tagged_and_fragmented_frames_and_other_protocols_do_not_pass() {
        let program = program(Some(Ipv4Addr::new(10, 9, 1, 1)), None);
        let frame = udp("10.9.1.1:53");
        assert_eq!(run(&program, &frame, 1), Some(0));
        for (at, value) in [(12, 9), (20, 0x20), (21, 1), (23, 6)] {
            let mut frame = frame.clone();
            frame[at] = value;
            assert!(!passes(&frame), "{at}");
        }
        // Options between the header and the datagram.
        let mut frame = frame.clone();
        frame[14] = 0x46;
        frame.splice(34..34, [0; 4]);
        assert!(passes(&frame));
    }

    #[test]
    fn every_jump_stays_inside_and_every_way_ends() {
        for (ipv4, ipv6) in [(None, None), (Some(Ipv4Addr::LOCALHOST), Some(Ipv6Addr::LOCALHOST))] {
            let program = program(ipv4, ipv6);
            for (at, line) in program.iter().enumerate() {
                let furthest = at + 1 + usize::from(line.jump_true.max(line.jump_false));
                assert!(line.code == RETURN || furthest < program.len(), "{at}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_it_lets_through_is_what_the_reader_takes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = passes(&bytes);
        }
    }
}
