//! NICs of bare guests, by one message of rtnetlink.

use kernel::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::process::Pid;

use crate::{Result, act};

/// A pair of links by one message: the host's end in the bridge and up, the guest's in its namespace.
pub(crate) fn veth(number: u32, pid: Pid, bridge: u32) -> Result<()> {
    const NEW_LINK: u16 = 16;
    const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400; // request, acknowledge, exclusive, create
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(act("socket(netlink)"))?;
    let header = |up: bool| {
        let mut header = [0u8; 16];
        header[8..12].copy_from_slice(&u32::from(up).to_ne_bytes());
        header[12..16].copy_from_slice(&u32::from(up).to_ne_bytes());
        header
    };
    let mut peer = header(false).to_vec();
    attribute(&mut peer, 3, b"eth0\0");
    attribute(&mut peer, 19, &(pid.as_raw_nonzero().get() as u32).to_ne_bytes());
    let mut data = Vec::new();
    attribute(&mut data, 1, &peer);
    let mut info = Vec::new();
    attribute(&mut info, 1, b"veth\0");
    attribute(&mut info, 2, &data);
    let mut message = vec![0u8; 16];
    message.extend(header(true));
    attribute(&mut message, 3, format!("bb{}x{number}\0", std::process::id() % 100_000).as_bytes());
    attribute(&mut message, 10, &bridge.to_ne_bytes());
    attribute(&mut message, 18, &info);
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    rustix::net::send(&socket, &message, SendFlags::empty()).map_err(act("send(netlink)"))?;
    let mut answer = [0u8; 1024];
    let length = rustix::io::read(&socket, &mut answer).map_err(act("read(netlink)"))?;
    let code = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(-5, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(format!("new veth: {}", Errno::from_raw_os_error(-code))) }
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((value.len() as u16 + 4).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
