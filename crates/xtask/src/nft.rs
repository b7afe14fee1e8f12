//! The names of all nftables tables, asked by netlink: on a machine that only runs the product there is no `nft`.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE`
const NEW_TABLE: u16 = 0x0a00;
/// `… | NFT_MSG_GETTABLE`
const GET_TABLE: u16 = 0x0a01;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
/// `NFTA_TABLE_NAME`
const NAME: u16 = 1;
/// Netlink's header, and netfilter's behind it.
const HEADERS: (usize, usize) = (16, 4);

/// Names of all tables of this network namespace. A kernel without nftables has none.
pub(crate) fn tables() -> io::Result<Vec<String>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = match socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER)) {
        Err(rustix::io::Errno::PROTONOSUPPORT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut request = Vec::new();
    request.extend(((HEADERS.0 + HEADERS.1) as u32).to_ne_bytes());
    request.extend(GET_TABLE.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8 + 4]);
    send(&socket, &request, SendFlags::empty())?;
    let mut names = Vec::new();
    loop {
        // As much as the kernel puts into one answer of a dump.
        let mut buffer = vec![0u8; 32 * 1024];
        let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty())?;
        if take(buffer.get(..length).unwrap_or_default(), &mut names)? {
            return Ok(names);
        }
    }
}

/// Reads the messages of one answer; whether it was the last.
fn take(mut bytes: &[u8], names: &mut Vec<String>) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while bytes.len() >= HEADERS.0 {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let message = bytes.get(HEADERS.0..length).ok_or_else(short)?;
        match u16::from_ne_bytes([bytes[4], bytes[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = message.get(..4).ok_or_else(short)?;
                let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
                // Netfilter without nftables.
                return if code == -22 { Ok(true) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            NEW_TABLE => names.extend(name(message.get(HEADERS.1..).unwrap_or_default())),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The name among the attributes of a table.
fn name(mut attributes: &[u8]) -> Option<String> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length)?;
        if kind == NAME {
            return Some(String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn table(name: &str) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0, 8, 0, 2, 0, 1, 1, 1, 1];
        body.extend((5 + name.len() as u16).to_ne_bytes());
        body.extend(NAME.to_ne_bytes());
        body.extend(name.bytes().chain([0]));
        message(NEW_TABLE, &body)
    }

    #[test]
    fn tables_are_read_until_the_end() {
        let mut names = Vec::new();
        let answer = [table("sysctl-0a1b2c"), table("x")].concat();
        assert!(!take(&answer, &mut names).expect("reads"));
        assert!(take(&message(NLMSG_DONE, &[0; 4]), &mut names).expect("reads"));
        assert_eq!(names, ["sysctl-0a1b2c", "x"]);
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refused = take(&message(NLMSG_ERROR, &(-1i32).to_ne_bytes()), &mut Vec::new());
        assert_eq!(refused.expect_err("refused").raw_os_error(), Some(1));
        assert!(take(&message(NEW_TABLE, &[0; 9])[..20], &mut Vec::new()).is_err());
    }
}
