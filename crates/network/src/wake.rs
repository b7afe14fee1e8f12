//! Hearing of the first frame that goes to a guest.
//!
//! The frame itself is not kept here: it went to the guest's own network stack, which answers what needs no process (pings,
//! the opening of connections) and keeps the rest until the guest goes on.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use kernel::packet::{self, Side};
use kernel::seccomp::Instruction;
use model::Mac;

use crate::filter::{JUMP_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, Line, RETURN, To, assemble};
use crate::{Error, Result};

/// Not a place in the frame but the kernel's word on which way it goes (`SKF_AD_PKTTYPE`).
const WAY: u32 = 0xffff_f000 + 4;
/// Out of the link, which is to the guest behind it (`PACKET_OUTGOING`).
const OUT: u32 = 4;
/// What is kept of a frame: that it came is all there is to know.
const KEPT: u32 = 1;

/// Whom a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Callee {
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// A socket that can be read once a frame for `callee` went out of the link `index`: one to its hardware address, or the
/// question who has one of its addresses. What goes to everybody is for nobody.
pub fn calls(index: u32, callee: &Callee) -> Result<OwnedFd> {
    let socket = packet::open(index, packet::EVERY_TYPE, Side::Both, &program(callee));
    socket.map_err(|errno| Error::Socket { what: "packet", errno })
}

fn program(callee: &Callee) -> Vec<Instruction> {
    use Line::{Do, Here, If};
    let Mac([a, b, c, d, e, f]) = callee.mac;
    let mut lines = vec![
        Do(LOAD_BYTE, WAY),
        If(JUMP_EQUAL, OUT, To::Next, To::Reject),
        Do(LOAD_HALF, 12),
        If(JUMP_EQUAL, 0x0806, To::Arp, To::Next),
        Do(LOAD_WORD, 0),
        If(JUMP_EQUAL, u32::from_be_bytes([a, b, c, d]), To::Next, To::Ipv6),
        Do(LOAD_HALF, 4),
        If(JUMP_EQUAL, u32::from(u16::from_be_bytes([e, f])), To::Accept, To::Reject),
        // The group that the question who has an IPv6 address goes to ends in the address's last three bytes.
        Here(To::Ipv6),
    ];
    if let Some(address) = callee.ipv6 {
        let [.., x, y, z] = address.octets();
        lines.extend([
            If(JUMP_EQUAL, 0x3333_ff00 | u32::from(x), To::Next, To::Reject),
            Do(LOAD_HALF, 4),
            If(JUMP_EQUAL, u32::from(u16::from_be_bytes([y, z])), To::Accept, To::Reject),
        ]);
    } else {
        lines.push(Do(RETURN, 0));
    }
    lines.push(Here(To::Arp));
    if let Some(address) = callee.ipv4 {
        lines.extend([Do(LOAD_WORD, 14 + 24), If(JUMP_EQUAL, u32::from(address), To::Accept, To::Reject)]);
    } else {
        lines.push(Do(RETURN, 0));
    }
    lines.extend([Here(To::Accept), Do(RETURN, KEPT), Here(To::Reject), Do(RETURN, 0)]);
    assemble(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::run;

    const CALLEE: Callee = Callee { mac: Mac([2, 1, 2, 3, 4, 5]), ipv4: Some(Ipv4Addr::new(10, 9, 1, 7)), ipv6: None };

    fn wakes(callee: &Callee, frame: &[u8]) -> bool {
        run(&program(callee), frame, OUT) == Some(KEPT)
    }

    fn frame(to: [u8; 6], kind: u16) -> Vec<u8> {
        let mut frame = [to.as_slice(), &[2; 6], &kind.to_be_bytes()].concat();
        frame.resize(60, 0);
        frame
    }

    fn question(ip: [u8; 4]) -> Vec<u8> {
        let mut frame = frame([0xff; 6], 0x0806);
        frame[38..42].copy_from_slice(&ip);
        frame
    }

    #[test]
    fn what_is_for_the_guest_wakes_it_and_what_is_for_all_does_not() {
        assert!(wakes(&CALLEE, &frame(CALLEE.mac.0, 0x0800)) && wakes(&CALLEE, &frame(CALLEE.mac.0, 0x86dd)));
        assert!(!wakes(&CALLEE, &frame([2, 1, 2, 3, 4, 6], 0x0800)));
        assert!(
            !wakes(&CALLEE, &frame([0xff; 6], 0x0800)) && !wakes(&CALLEE, &frame([0x33, 0x33, 0, 0, 0, 1], 0x86dd))
        );
        assert!(wakes(&CALLEE, &question([10, 9, 1, 7])) && !wakes(&CALLEE, &question([10, 9, 1, 8])));
        assert_eq!(run(&program(&CALLEE), &frame(CALLEE.mac.0, 0x0800), 0), Some(0), "what the guest sends");
    }

    #[test]
    fn the_question_who_has_its_ipv6_address_wakes_it() {
        let callee = Callee { ipv6: "fd00::12:3456".parse().ok(), ipv4: None, ..CALLEE };
        assert!(wakes(&callee, &frame([0x33, 0x33, 0xff, 0x12, 0x34, 0x56], 0x86dd)));
        assert!(!wakes(&callee, &frame([0x33, 0x33, 0xff, 0x12, 0x34, 0x57], 0x86dd)));
        assert!(!wakes(&CALLEE, &frame([0x33, 0x33, 0xff, 0x12, 0x34, 0x56], 0x86dd)));
        assert!(!wakes(&callee, &question([10, 9, 1, 7])));
    }
}
