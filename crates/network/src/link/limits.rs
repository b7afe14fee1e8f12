//! Limits of a link: programs that a classifier asks about each frame at the host's end, where a guest cannot take them away.
//!
//! What each was made of is in the classifier's name, as a program itself cannot be read back without rights that the daemon
//! does without.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use kernel::Errno;
use kernel::bpf::Question;
use model::NicLimits;

use crate::netlink::{Attributes, Batch, CREATE, EXCLUSIVE, Reader, Socket, read};
use crate::{Error, Result};

// From linux/rtnetlink.h, linux/pkt_sched.h and linux/pkt_cls.h.
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const GET_FILTER: u16 = 46;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// Its answer is what happens to the frame.
const DIRECT: u32 = 1;
/// A place for classifiers in both directions, that queues nothing.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Frames that come in at the host's end, which the guest sends; and those that go out there, which it receives.
const FROM_GUEST: u32 = 0xffff_fff2;
const TO_GUEST: u32 = 0xffff_fff3;
/// The first and only one, for every protocol.
const FIRST: u32 = 1 << 16 | (0x0003u16.to_be() as u32);
const HANDLE: u32 = 1;
/// Length of `struct tcmsg`.
const HEADER: usize = 20;

/// Most places that are looked at: one for each link that is listed.
const MOST: usize = super::MOST_LINKS;

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// Has a link keep to its limits, and to none that it had. Of what is new each direction is in force at once.
pub fn put_limits(socket: &mut Socket, index: u32, limits: &NicLimits) -> Result<()> {
    let object = || format!("the limits of link {index}");
    let ways = [(FROM_GUEST, limits.egress_bytes, limits.priority), (TO_GUEST, limits.ingress_bytes, None)];
    let mut programs: Vec<(u32, OwnedFd, String)> = Vec::new();
    for (place, rate, priority) in ways.into_iter().filter(|(_, rate, priority)| rate.is_some() || priority.is_some()) {
        let program = kernel::meter::load(Question::Link, rate, priority);
        let program = program.map_err(|errno| Error::Asking { act: "load a program for", object: object(), errno })?;
        programs.push((place, program, name(rate, priority)));
    }
    let mut batch = Batch::about(object());
    // Gone with all that is in it: a direction that has no limit any more is free at once.
    if programs.len() < ways.len() {
        batch
            .request("take away", DELETE_QDISC, 0, &header(index, CLSACT_HANDLE, CLSACT, 0))
            .tolerating(&[Errno::NOENT, Errno::INVAL]);
    }
    if !programs.is_empty() {
        make_place(&mut batch, index);
    }
    for (place, program, name) in &programs {
        set(&mut batch, index, *place, program, name);
    }
    socket.run(batch)
}

/// Whether this kernel can keep links to limits, found out by trying: on a link that is made for it and is gone again before the
/// one call that asks for both has returned, so that nothing is left of it even if the daemon dies here. That call lasts some
/// 30 ms, as the kernel waits until all processors have forgotten the link.
pub fn can_limit(socket: &mut Socket) -> bool {
    let Ok(program) = program() else { return false };
    let process = std::process::id();
    // Kernels count indices from 1, and a process's number has 22 bits at most: nobody else's link is meant.
    let index = 0x7000_0000 | process;
    let mut batch = Batch::about("a link that is for trying limits");
    batch
        .request("create", super::NEW_LINK, CREATE | EXCLUSIVE, &super::header(index, 0))
        .text(super::IFNAME, &format!("sysctlp{process}"))
        .nest(super::LINK_INFO, |info| {
            info.text(super::INFO_KIND, "bridge");
        });
    make_place(&mut batch, index);
    set(&mut batch, index, FROM_GUEST, &program, &name(Some(1), Some(0)));
    batch.request("remove", super::DELETE_LINK, 0, &super::header(index, 0));
    socket.run(batch).is_ok()
}

/// The part of it that is a matter of this process's rights, not of the kernel: whether programs can be loaded.
pub fn can_load() -> bool {
    program().is_ok()
}

/// One that is never asked.
fn program() -> std::result::Result<OwnedFd, Errno> {
    kernel::meter::load(Question::Link, Some(1), Some(0))
}

fn make_place(batch: &mut Batch, index: u32) {
    batch
        .request("make a place for", NEW_QDISC, CREATE | EXCLUSIVE, &header(index, CLSACT_HANDLE, CLSACT, 0))
        .tolerating(&[Errno::EXIST])
        .text(KIND, "clsact");
}

fn set(batch: &mut Batch, index: u32, place: u32, program: &OwnedFd, name: &str) {
    let number = program.as_raw_fd() as u32;
    batch.request("set", NEW_FILTER, CREATE, &header(index, HANDLE, place, FIRST)).text(KIND, "bpf").nest(
        OPTIONS,
        |options| {
            options.u32(BPF_FD, number).text(BPF_NAME, name).u32(BPF_FLAGS, DIRECT);
        },
    );
}

/// What a classifier is called that keeps to these.
fn name(rate: Option<u64>, priority: Option<u32>) -> String {
    let text = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!("sysctl {} {}", text(rate), text(priority.map(u64::from)))
}

fn parse(name: &str) -> Option<(Option<u64>, Option<u32>)> {
    let mut words = name.strip_prefix("sysctl ")?.split(' ');
    let number = |word: Option<&str>| {
        Some(match word? {
            "-" => None,
            text => Some(text.parse::<u64>().ok()?),
        })
    };
    Some((number(words.next())?, number(words.next())?.and_then(|n| u32::try_from(n).ok())))
}

/// The limits of every link that has any, by its index.
pub fn limits(socket: &mut Socket) -> Result<BTreeMap<u32, NicLimits>> {
    let request = || {
        let mut batch = Batch::about("queues");
        batch.request("list the", GET_QDISC, 0, &header(0, 0, 0, 0));
        batch
    };
    let places = socket.dump(MOST, request, |message| {
        let is_place = kind_of(message) == Some("clsact".to_owned()) && message.kind == NEW_QDISC;
        is_place.then(|| read::u32_at(message.body, 4))?
    })?;
    let mut found = BTreeMap::new();
    for index in places {
        let mut limits = NicLimits::default();
        for place in [FROM_GUEST, TO_GUEST] {
            let request = || {
                let mut batch = Batch::about(format!("classifiers of link {index}"));
                batch.request("list the", GET_FILTER, 0, &header(index, 0, place, 0));
                batch
            };
            // Of ours there is one; somebody else's are not looked at.
            let ours = socket.dump(16, request, noted)?.into_iter().next();
            match (place, ours) {
                (FROM_GUEST, Some((rate, priority))) => (limits.egress_bytes, limits.priority) = (rate, priority),
                (_, Some((rate, _))) => limits.ingress_bytes = rate,
                (_, None) => {}
            }
        }
        if limits != NicLimits::default() {
            found.insert(index, limits);
        }
    }
    Ok(found)
}

fn kind_of(message: Reader<'_>) -> Option<String> {
    message.attributes(HEADER).find(|(kind, _)| *kind == KIND).map(|(_, name)| read::text(name))
}

fn noted(message: Reader<'_>) -> Option<(Option<u64>, Option<u32>)> {
    let (_, options) = message.attributes(HEADER).find(|(kind, _)| *kind == OPTIONS)?;
    parse(&read::text(Attributes::find(options, BPF_NAME)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_classifier_is_called_tells_what_it_keeps_to() {
        for wanted in [(Some(1_250_000), Some(5)), (None, Some(0)), (Some(1000), None)] {
            assert_eq!(parse(&name(wanted.0, wanted.1)), Some(wanted));
        }
        for wrong in ["", "sysctl", "sysctl 1", "sysctl x -", "other 1 2"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
