//! A wire: a pair of links that joins two guests. Neither end is on the host.

use std::os::fd::{AsRawFd, BorrowedFd};

use kernel::Errno;
use model::{Mac, NicSpec};

use super::veth::{NETNS_FD, VETH_PEER, end};
use super::{ALIAS, Alias, IFNAME, Link, LinkName, NEW_LINK, configure_guest, guest};
use crate::netlink::{Batch, CREATE, EXCLUSIVE, Socket};
use crate::{Error, Result};

/// One end of a wire: where it lies, and what it is there.
#[derive(Debug)]
pub struct WireSide<'a> {
    /// The guest's network namespace.
    pub netns: BorrowedFd<'a>,
    /// A socket that was made in it.
    pub socket: &'a mut Socket,
    /// What tells that the end is ours, and which wire's.
    pub alias: Alias,
    /// Its name, hardware address and addresses.
    pub nic: &'a NicSpec,
}

/// Joins two guests. Done when the wire is there already; one whose making was cut short is finished.
///
/// Both ends are made at once, each straight in its namespace, under a name that no guest has; then each is marked, given
/// its name and addresses, and brought up. When this returns it carries frames. A guest that has a link of that name already keeps it, and the wire is taken
/// away again.
///
/// `socket`: of the host, which may make links in both namespaces.
pub fn join_guests(socket: &mut Socket, temporary: &LinkName, mtu: u32, mut sides: [WireSide<'_>; 2]) -> Result<()> {
    let mut found = 0;
    for side in &mut sides {
        found += usize::from(end_of(side, temporary)?.is_some());
    }
    // A guest may have put its end into a namespace of its own: that is where it is, then.
    if found == 0 {
        socket.run(create(temporary, mtu, &sides))?;
    }
    for side in &mut sides {
        let Some(link) = end_of(side, temporary)? else { continue };
        if link.name != temporary.as_str() {
            continue;
        }
        if let Err(error) = finish(side, link.index) {
            let mut batch = Batch::about(side.nic.guest_name.as_str());
            batch.request("take back wire", super::DELETE_LINK, 0, &super::header(link.index, 0));
            side.socket.run(batch)?;
            return Err(error);
        }
    }
    // The end that was brought up first got its carrier from the other.
    sides.iter_mut().try_for_each(|side| guest::settle(side.socket, &side.nic.guest_name.parse()?))
}

/// Takes an end away whose wire led to where the other guest was before its boot: the kernel takes such a wire itself, some time
/// after its network, and until then it looks like one that is there.
pub fn remove_stale(side: &mut WireSide<'_>) -> Result<()> {
    let whose = side.alias.as_str().rsplit_once(':').map_or(side.alias.as_str(), |(whose, _)| whose).to_owned();
    let stale = marked(side.socket, &format!("{whose}:"))?;
    stale.iter().try_for_each(|link| remove_guests(side.socket, link))
}

/// The links in a guest whose alias begins with `mark`, at most so many as are ever listed of a guest.
pub fn marked(socket: &mut Socket, mark: &str) -> Result<Vec<Link>> {
    let links = super::list_some(socket, guest::MOST_LINKS)?;
    Ok(links.into_iter().filter(|link| link.alias.as_deref().is_some_and(|alias| alias.starts_with(mark))).collect())
}

/// Removes a link of the socket's namespace; done when there is none. The other end of a wire goes with it.
pub fn remove_guests(socket: &mut Socket, link: &Link) -> Result<()> {
    let mut batch = Batch::about(link.name.as_str());
    batch.request("remove link", super::DELETE_LINK, 0, &super::header(link.index, 0)).tolerating(&[Errno::NODEV]);
    socket.run(batch)
}

/// The end in this guest: by its mark, or by the name that it has before it is marked.
fn end_of(side: &mut WireSide<'_>, temporary: &LinkName) -> Result<Option<Link>> {
    let marked =
        marked(side.socket, side.alias.as_str())?.into_iter().find(|l| l.alias.as_deref() == Some(side.alias.as_str()));
    if marked.is_some() { Ok(marked) } else { super::find(side.socket, temporary) }
}

fn create(temporary: &LinkName, mtu: u32, sides: &[WireSide<'_>; 2]) -> Batch {
    let [near, far] = sides;
    let mut batch = Batch::about(near.nic.guest_name.as_str());
    let mut writer = batch.request("create wire", NEW_LINK, CREATE | EXCLUSIVE, &super::header(0, 0));
    let place = |writer: &mut crate::netlink::Writer<'_>, netns: BorrowedFd<'_>, mac: Mac| {
        writer.bytes(super::ADDRESS, &mac.0).u32(NETNS_FD, netns.as_raw_fd() as u32);
    };
    end(&mut writer, temporary, mtu);
    place(&mut writer, near.netns, near.nic.mac);
    super::info(&mut writer, "veth", |data| {
        data.nest(VETH_PEER, |peer| {
            peer.fixed(&super::header(0, 0));
            end(peer, temporary, mtu);
            place(peer, far.netns, far.nic.mac);
        });
    });
    batch
}

/// Marked first, so that it is known again whatever its name is; the name comes before the link is up, as the kernel wants it.
fn finish(side: &mut WireSide<'_>, index: u32) -> Result<()> {
    let name: LinkName = side.nic.guest_name.parse()?;
    if super::find(side.socket, &name)?.is_some() {
        let found = "a link of the guest's own".to_owned();
        return Err(Error::Taken { name: name.to_string(), found });
    }
    let mut batch = Batch::about(name.as_str());
    batch.request("mark wire", NEW_LINK, 0, &super::header(index, 0)).text(ALIAS, side.alias.as_str());
    batch.request("name wire", NEW_LINK, 0, &super::header(index, 0)).text(IFNAME, name.as_str());
    side.socket.run(batch)?;
    configure_guest(side.socket, side.nic)
}
