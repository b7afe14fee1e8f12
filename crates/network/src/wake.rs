//! Hearing of the first frame that goes to a guest.
//!
//! The frame itself is not kept here: it went to the guest's own network stack, which answers what needs no process (pings,
//! the opening of connections) and keeps the rest until the guest goes on.

use std::os::fd::OwnedFd;

use kernel::packet::{self, Side};
use kernel::seccomp::Instruction;
use model::Mac;

use crate::filter::{ICMPV6, JUMP_ABOVE, JUMP_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, Line, RETURN, To, assemble};
use crate::{Error, Result};

/// Not a place in the frame but the kernel's word on which way it goes (`SKF_AD_PKTTYPE`).
const WAY: u32 = 0xffff_f000 + 4;
/// Out of the link, which is to the guest behind it (`PACKET_OUTGOING`).
const OUT: u32 = 4;
/// Messages of neighbour discovery: from the router's solicitation to its redirect (RFC 4861, 4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u32> = 133..=137;
/// What is kept of a frame: that it came is all there is to know.
const KEPT: u32 = 1;

/// A socket that can be read once a frame for `mac` went out of the link `index`. What goes to everybody is for nobody, and who
/// has an address is between the two kernels: the guest's answers questions itself, and hears answers to its own, say of a
/// router just after its link came up.
pub fn calls(index: u32, mac: Mac) -> Result<OwnedFd> {
    let socket = packet::open(index, packet::EVERY_TYPE, Side::Both, &program(mac));
    socket.map_err(|errno| Error::Socket { what: "packet", errno })
}

fn program(Mac([a, b, c, d, e, f]): Mac) -> Vec<Instruction> {
    use Line::{Do, Here, If};
    assemble(&[
        Do(LOAD_BYTE, WAY),
        If(JUMP_EQUAL, OUT, To::Next, To::Reject),
        Do(LOAD_WORD, 0),
        If(JUMP_EQUAL, u32::from_be_bytes([a, b, c, d]), To::Next, To::Reject),
        Do(LOAD_HALF, 4),
        If(JUMP_EQUAL, u32::from(u16::from_be_bytes([e, f])), To::Next, To::Reject),
        Do(LOAD_HALF, 12),
        If(JUMP_EQUAL, 0x0806, To::Reject, To::Next),
        If(JUMP_EQUAL, 0x86dd, To::Next, To::Accept),
        Do(LOAD_BYTE, 14 + 6),
        If(JUMP_EQUAL, ICMPV6, To::Next, To::Accept),
        Do(LOAD_BYTE, 54),
        If(JUMP_ABOVE, *NEIGHBOUR_DISCOVERY.end(), To::Accept, To::Next),
        If(JUMP_ABOVE, NEIGHBOUR_DISCOVERY.start() - 1, To::Reject, To::Accept),
        Here(To::Accept),
        Do(RETURN, KEPT),
        Here(To::Reject),
        Do(RETURN, 0),
    ])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::filter::run;
    use crate::frame::Icmp6;

    const GUEST: Mac = Mac([2, 1, 2, 3, 4, 5]);

    fn wakes(frame: &[u8]) -> bool {
        run(&program(GUEST), frame, OUT) == Some(KEPT)
    }

    fn frame(to: Mac, kind: u16) -> Vec<u8> {
        let mut frame = [to.0.as_slice(), &[2; 6], &kind.to_be_bytes()].concat();
        frame.resize(60, 0);
        frame
    }

    fn icmp6(kind: u8) -> Vec<u8> {
        let (from_mac, to) = (Mac([2; 6]), Ipv6Addr::LOCALHOST);
        Icmp6 { to_mac: GUEST, from_mac, to, from: to, message: &[kind, 0, 0, 0] }.write().expect("short enough")
    }

    #[test]
    fn what_is_for_the_guest_wakes_it_and_what_is_for_all_does_not() {
        assert!(wakes(&frame(GUEST, 0x0800)) && wakes(&frame(GUEST, 0x86dd)) && wakes(&frame(GUEST, 0x8100)));
        assert!(!wakes(&frame(Mac([2, 1, 2, 3, 4, 6]), 0x0800)) && !wakes(&frame(Mac([2, 1, 2, 9, 4, 5]), 0x0800)));
        assert!(!wakes(&frame(Mac([0xff; 6]), 0x0800)) && !wakes(&frame(Mac([0x33, 0x33, 0, 0, 0, 1]), 0x86dd)));
        assert_eq!(run(&program(GUEST), &frame(GUEST, 0x0800), 0), Some(0), "what the guest sends");
    }

    #[test]
    fn who_has_an_address_is_no_call() {
        assert!(!wakes(&frame(GUEST, 0x0806)) && !wakes(&frame(Mac([0xff; 6]), 0x0806)));
        let calls: Vec<u8> = (0..=u8::MAX).filter(|kind| !wakes(&icmp6(*kind))).collect();
        assert_eq!(calls, [133, 134, 135, 136, 137]);
    }
}
