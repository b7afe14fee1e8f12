//! The pair of links that joins a chain with the bridge that it begins at. Both ends are on the host.

use kernel::Errno;

use super::veth::{VETH_PEER, end};
use super::{ALIAS, Alias, IFF_UP, LinkName, MASTER, NEW_LINK};
use crate::netlink::{Batch, CREATE, EXCLUSIVE, Socket};
use crate::{Error, Result};

/// An uplink as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkSpec {
    /// Name of the end that is a port of the bridge.
    pub name: LinkName,
    /// What tells that it is ours.
    pub alias: Alias,
    /// Name of the other end.
    pub inner: LinkName,
    /// Index of the bridge.
    pub bridge: u32,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// Makes the pair and connects it; done when it is there.
///
/// [`Error::Taken`] when the name belongs to a link that is none of ours.
pub fn ensure_uplink(socket: &mut Socket, spec: &UplinkSpec) -> Result<()> {
    let mut batch = Batch::about(spec.name.as_str());
    let mut writer = batch.request("create uplink", NEW_LINK, CREATE | EXCLUSIVE, &super::header(0, 0));
    end(&mut writer, &spec.name, spec.mtu);
    super::info(&mut writer, "veth", |data| {
        data.nest(VETH_PEER, |peer| {
            peer.fixed(&super::header(0, 0));
            end(peer, &spec.inner, spec.mtu);
        });
    });
    match socket.run(batch) {
        Ok(()) | Err(Error::Refused { errno: Errno::EXIST, .. }) => {}
        Err(error) => return Err(error),
    }
    let missing = |name: &LinkName| Error::NoLink { name: name.to_string() };
    let link = super::find(socket, &spec.name)?.ok_or_else(|| missing(&spec.name))?;
    let inner = super::find(socket, &spec.inner)?;
    let is_ours = match &link.alias {
        Some(alias) => alias == spec.alias.as_str(),
        // Its making was cut short before anything was written on it: the other end tells.
        None => inner.as_ref().is_some_and(|inner| link.peer == Some(inner.index)),
    };
    if link.kind.as_deref() != Some("veth") || !is_ours {
        return Err(super::taken(&spec.name, &link));
    }
    let inner = inner.ok_or_else(|| missing(&spec.inner))?;
    let mut batch = Batch::about(spec.name.as_str());
    for index in [link.index, inner.index] {
        super::forbid_own_address(&mut batch, index);
    }
    batch
        .request("connect uplink", NEW_LINK, 0, &super::header(link.index, 0))
        .text(ALIAS, spec.alias.as_str())
        .u32(MASTER, spec.bridge);
    for index in [link.index, inner.index] {
        batch.request("bring up uplink", NEW_LINK, 0, &super::header(index, IFF_UP));
    }
    socket.run(batch)
}
