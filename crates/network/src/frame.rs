//! Ethernet frames with UDP or ICMPv6 in them, checked when read and complete when written.
//!
//! Formats: IPv4 RFC 791, IPv6 RFC 8200, UDP RFC 768, ICMPv6 RFC 4443. Only what the gateway needs: no fragments, no
//! extension headers (a frame with them is not for us).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::Mac;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 64;
/// Neighbour discovery only counts with this hop limit, which shows that no router was passed (RFC 4861).
const HOP_LIMIT_OF_NEIGHBOURS: u8 = 255;

/// A UDP datagram in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Hardware address of the receiver.
    pub to_mac: Mac,
    /// Hardware address of the sender.
    pub from_mac: Mac,
    /// Address and port of the receiver, of the same family as the sender's.
    pub to: SocketAddr,
    /// Address and port of the sender.
    pub from: SocketAddr,
    /// What it carries.
    pub payload: &'a [u8],
}

/// An ICMPv6 message between neighbours, in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp6<'a> {
    /// Hardware address of the receiver.
    pub to_mac: Mac,
    /// Hardware address of the sender.
    pub from_mac: Mac,
    /// Address of the receiver.
    pub to: Ipv6Addr,
    /// Address of the sender.
    pub from: Ipv6Addr,
    /// The message from its type on. The checksum at offset 2 is filled in when written.
    pub message: &'a [u8],
}

/// The hardware address of an IPv6 group (RFC 2464).
pub fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

impl<'a> Datagram<'a> {
    /// Reads a frame; `None` for anything but a whole UDP datagram.
    ///
    /// The checksum of UDP is not looked at: frames that never left this host carry it unfinished.
    pub fn parse(frame: &'a [u8]) -> Option<Datagram<'a>> {
        let (to_mac, from_mac, packet) = ethernet(frame)?;
        let (from, to, datagram) = ip(packet, PROTOCOL_UDP)?;
        let length = usize::from(u16_at(datagram, 4)?);
        Some(Datagram {
            to_mac,
            from_mac,
            to: SocketAddr::new(to, u16_at(datagram, 2)?),
            from: SocketAddr::new(from, u16_at(datagram, 0)?),
            payload: datagram.get(UDP..length)?,
        })
    }

    /// Writes the frame; `None` when it would be too long or mixes address families.
    pub fn write(&self) -> Option<Vec<u8>> {
        let length = u16::try_from(UDP + self.payload.len()).ok()?;
        let mut datagram = Vec::with_capacity(usize::from(length));
        datagram.extend_from_slice(&self.from.port().to_be_bytes());
        datagram.extend_from_slice(&self.to.port().to_be_bytes());
        datagram.extend_from_slice(&length.to_be_bytes());
        datagram.extend_from_slice(&[0; 2]);
        datagram.extend_from_slice(self.payload);
        // A computed checksum of zero is sent as its equal, as zero means "none".
        let sum = match pseudo_checksum(self.from.ip(), self.to.ip(), PROTOCOL_UDP, &datagram) {
            0 => 0xffff,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        let frame = write(self.to_mac, self.from_mac, self.from.ip(), self.to.ip(), PROTOCOL_UDP, HOP_LIMIT, &datagram);
        frame.filter(|_| self.from.is_ipv4() == self.to.is_ipv4())
    }

    /// The frame that takes `payload` back to the sender, from the address that the sender used.
    pub fn reply(&self, own_mac: Mac, payload: &[u8]) -> Option<Vec<u8>> {
        Datagram { to_mac: self.from_mac, from_mac: own_mac, to: self.from, from: self.to, payload }.write()
    }
}

impl<'a> Icmp6<'a> {
    /// Reads a frame; `None` for anything but an ICMPv6 message from a neighbour with a right checksum.
    pub fn parse(frame: &'a [u8]) -> Option<Icmp6<'a>> {
        let (to_mac, from_mac, packet) = ethernet(frame)?;
        let (from, to, message) = ip(packet, PROTOCOL_ICMPV6)?;
        let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { return None };
        let near = packet.get(7) == Some(&HOP_LIMIT_OF_NEIGHBOURS);
        let whole = pseudo_checksum(from.into(), to.into(), PROTOCOL_ICMPV6, message) == 0;
        (near && whole).then_some(Icmp6 { to_mac, from_mac, to, from, message })
    }

    /// Writes the frame; `None` when it would be too long or too short for a checksum.
    pub fn write(&self) -> Option<Vec<u8>> {
        let mut message = self.message.to_vec();
        message.get_mut(2..4)?.fill(0);
        let sum = pseudo_checksum(self.from.into(), self.to.into(), PROTOCOL_ICMPV6, &message);
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let (from, to) = (self.from.into(), self.to.into());
        write(self.to_mac, self.from_mac, from, to, PROTOCOL_ICMPV6, HOP_LIMIT_OF_NEIGHBOURS, &message)
    }
}

/// Splits a frame into receiver, sender and an IP packet.
fn ethernet(frame: &[u8]) -> Option<(Mac, Mac, &[u8])> {
    let version = frame.get(ETHERNET)? >> 4;
    let expected = match u16_at(frame, 12)? {
        TYPE_IPV4 => 4,
        TYPE_IPV6 => 6,
        _ => return None,
    };
    let mac = |at: usize| Some(Mac(frame.get(at..at + 6)?.try_into().ok()?));
    (version == expected).then_some((mac(0)?, mac(6)?, frame.get(ETHERNET..)?))
}

/// Splits a packet into sender, receiver and what it carries, if that is of `protocol`.
fn ip(packet: &[u8], protocol: u8) -> Option<(IpAddr, IpAddr, &[u8])> {
    if packet.first()? >> 4 == 4 {
        let header = usize::from(packet.first()? & 15) * 4;
        let length = usize::from(u16_at(packet, 2)?);
        // More fragments, or not the first.
        let fragment = u16_at(packet, 6)? & 0x3fff != 0;
        if header < IPV4 || fragment || *packet.get(9)? != protocol || checksum(0, packet.get(..header)?) != 0 {
            return None;
        }
        let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        Some((address(12)?, address(16)?, packet.get(header..length)?))
    } else {
        let length = usize::from(u16_at(packet, 4)?);
        if *packet.get(6)? != protocol {
            return None;
        }
        let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        Some((address(8)?, address(24)?, packet.get(IPV6..IPV6 + length)?))
    }
}

fn write(
    to_mac: Mac,
    from_mac: Mac,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    hops: u8,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + payload.len());
    frame.extend_from_slice(&to_mac.0);
    frame.extend_from_slice(&from_mac.0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend_from_slice(&TYPE_IPV4.to_be_bytes());
            frame.extend_from_slice(&ipv4_header(from, to, protocol, hops, payload.len())?);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend_from_slice(&TYPE_IPV6.to_be_bytes());
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&u16::try_from(payload.len()).ok()?.to_be_bytes());
            frame.extend_from_slice(&[protocol, hops]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
        }
        _ => return None,
    }
    frame.extend_from_slice(payload);
    Some(frame)
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, hops: u8, payload: usize) -> Option<[u8; IPV4]> {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&u16::try_from(IPV4 + payload).ok()?.to_be_bytes());
    header[6] = 0x40; // never fragment: we send nothing larger than the link takes
    header[8] = hops;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum = checksum(0, &header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

/// The checksum over the addresses and what an upper protocol sends.
fn pseudo_checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    checksum(address(from) + address(to) + u64::from(protocol) + bytes.len() as u64, bytes)
}

/// The Internet checksum (RFC 1071); zero over bytes that contain their own.
fn checksum(start: u64, bytes: &[u8]) -> u16 {
    let mut total = start + sum(bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or_default())).sum()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    #[test]
    fn a_datagram_reads_back_and_has_the_checksums_of_the_standard() {
        let sent = Datagram {
            to_mac: A,
            from_mac: B,
            to: address("10.0.0.2:67"),
            from: address("10.0.0.1:68"),
            payload: b"hello",
        };
        let frame = sent.write().expect("short enough");
        assert_eq!(Datagram::parse(&frame), Some(sent));
        // Worked out by hand after RFC 1071.
        assert_eq!(frame[24..26], [0x26, 0xca]);
        assert_eq!(frame[40..42], [0xa7, 0x78]);
        let back = sent.reply(A, b"you").expect("short enough");
        let back = Datagram::parse(&back).expect("a datagram");
        assert_eq!((back.to, back.from, back.to_mac, back.payload), (sent.from, sent.to, B, &b"you"[..]));
    }

    #[test]
    fn fragments_and_other_protocols_are_not_ours() {
        let to = address("[fd00::2]:53");
        let whole = Datagram { to_mac: A, from_mac: B, to, from: address("[fd00::1]:1000"), payload: b"x" };
        let mut frame = whole.write().expect("short enough");
        assert!(Datagram::parse(&frame).is_some());
        frame[20] = 44;
        assert!(Datagram::parse(&frame).is_none());
        let v4 = Datagram { to: address("10.0.0.2:53"), from: address("10.0.0.1:53"), ..whole };
        let mut frame = v4.write().expect("short enough");
        frame[20] |= 0x20;
        assert!(Datagram::parse(&frame).is_none());
        let mixed = Datagram { from: address("10.0.0.1:53"), ..whole };
        assert!(mixed.write().is_none());
    }

    #[test]
    fn a_neighbour_s_message_with_a_wrong_checksum_or_from_afar_is_not_read() {
        let group: Ipv6Addr = "ff02::2".parse().expect("address");
        let message = Icmp6 {
            to_mac: group_mac(group),
            from_mac: A,
            to: group,
            from: A.link_local(),
            message: &[133, 0, 0, 0, 0, 0, 0, 0],
        };
        let frame = message.write().expect("long enough");
        assert_eq!(Icmp6::parse(&frame).map(|read| read.from), Some(A.link_local()));
        for (at, value) in [(21, 64), (56, 1)] {
            let mut frame = frame.clone();
            frame[at] = value;
            assert!(Icmp6::parse(&frame).is_none());
        }
        assert_eq!(message.to_mac, Mac([0x33, 0x33, 0, 0, 0, 2]));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_offered(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..3) {
            // Random types would nearly all be refused at once.
            if let Some(at) = bytes.get_mut(12..15) {
                at.copy_from_slice(&[[8, 0, 0x45], [0x86, 0xdd, 0x60], [8, 0, 0x4f]][kind]);
            }
            let _ = Datagram::parse(&bytes);
            let _ = Icmp6::parse(&bytes);
        }
    }
}
