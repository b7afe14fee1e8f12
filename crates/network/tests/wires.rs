//! Wires between two guests, in the kernel.

mod lab;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Space, cidr, mac, name, nic};
use model::{BootGen, InstanceId, NicId, NicSpec, Plug, WireEnd};
use network::{Error, link};

const TEMPORARY: &str = "sw0a1b2c3d4e5f";

fn end(device: &str, n: u8) -> NicSpec {
    let address = Some(cidr(&format!("10.7.7.{n}/30")));
    let bare = NicSpec { ipv6: None, gateway4: None, gateway6: None, ..nic(n) };
    NicSpec { device: device.parse().expect("name"), guest_name: device.into(), ipv4: address, spoofing: true, ..bare }
}

/// Two guests, and the NIC of the first that leads to the second.
struct Pair {
    host: Space,
    guests: [Space; 2],
    nics: [NicSpec; 2],
}

impl Pair {
    fn new() -> Pair {
        let [near, far] = [end("eth1", 1), end("wan", 2)];
        let id = |n: u32| format!("00000000-0000-0000-0000-{n:012}").parse::<InstanceId>().expect("an id");
        let to = WireEnd {
            to: NicId { id: id(2), device: far.device.clone() },
            boot: BootGen(1),
            guest_name: far.guest_name.clone(),
            mac: far.mac,
            ipv4: far.ipv4,
            ipv6: far.ipv6,
        };
        let near = NicSpec { plug: Plug::Wire(Box::new(to)), ..near };
        let far = near.mirrored(id(1), BootGen(1)).expect("a wire");
        Pair { host: Space::new(), guests: [Space::new(), Space::new()], nics: [near, far] }
    }

    fn join(&self) -> network::Result<()> {
        let [near, far] = &self.guests;
        let (mut one, mut other) = (near.route(), far.route());
        let side = |guest: &'_ Space| guest.netns().try_clone_to_owned().expect("dup");
        let (near_ns, far_ns) = (side(near), side(far));
        let sides = [
            link::WireSide { netns: near_ns.as_fd(), socket: &mut one, alias: alias(1), nic: &self.nics[0] },
            link::WireSide { netns: far_ns.as_fd(), socket: &mut other, alias: alias(2), nic: &self.nics[1] },
        ];
        link::join_guests(&mut self.host.route(), &name(TEMPORARY), 1400, sides)
    }

    /// Names of all links but loopback, of the host and both guests.
    fn links(&self) -> [Vec<String>; 3] {
        let [near, far] = &self.guests;
        [&self.host, near, far].map(|space| {
            let links = link::list(&mut space.route()).expect("links");
            links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
        })
    }
}

fn alias(n: u8) -> link::Alias {
    format!("test wire {n}").parse().expect("alias")
}

#[test]
fn a_wire_joins_two_guests_and_leaves_nothing_on_the_host() {
    let pair = Pair::new();
    pair.join().expect("joined");
    let wanted = [vec![], vec!["eth1".to_owned()], vec!["wan".to_owned()]];
    assert_eq!(pair.links(), wanted);
    pair.join().expect("joined twice");
    assert_eq!(pair.links(), wanted);
    let near = link::find(&mut pair.guests[0].route(), &name("eth1")).expect("a look").expect("an end");
    assert_eq!((near.mac, near.mtu, near.up, near.master), (Some(mac(1)), 1400, true, None));

    let (one, other) = (pair.guests[0].udp("10.7.7.1:900"), pair.guests[1].udp("10.7.7.2:900"));
    other.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    one.send_to(b"over the wire", "10.7.7.2:900").expect("sent");
    let mut received = [0; 32];
    let length = other.recv(&mut received).expect("received");
    assert_eq!(&received[..length], b"over the wire");

    let marked = link::marked(&mut pair.guests[1].route(), "test wire").expect("a look");
    link::remove_guests(&mut pair.guests[1].route(), &marked[0]).expect("removed");
    assert_eq!(pair.links(), [const { Vec::<String>::new() }; 3]);
}

#[test]
fn a_wire_carries_the_first_frame_that_is_sent_after_it_is_made() {
    /// Each is made while the kernel has other links to see to, which is when it was late to see to these.
    const WIRES: usize = 50;
    let (done, busy) = (Arc::new(AtomicBool::new(false)), Space::new());
    let churn = std::thread::spawn({
        let done = done.clone();
        move || {
            while !done.load(Ordering::Relaxed) {
                busy.program(&["ip", "link", "add", "one", "type", "veth", "peer", "name", "other"]);
                busy.program(&["ip", "link", "delete", "one"]);
            }
        }
    });
    let lost = (0..WIRES).filter(|_| {
        let pair = Pair::new();
        let ends = [("10.7.7.1:900", 0), ("10.7.7.2:900", 1)];
        let [near, far] = ends.map(|(_, guest)| pair.guests[guest].udp("0.0.0.0:900"));
        pair.join().expect("joined");
        near.send_to(b"there", ends[1].0).expect("sent");
        far.send_to(b"and back", ends[0].0).expect("sent");
        [near, far].iter().any(|socket| socket.recv(&mut [0; 32]).is_err())
    });
    let lost = lost.count();
    done.store(true, Ordering::Relaxed);
    churn.join().expect("the other links");
    eprintln!("figure: {WIRES} wires, a frame sent each way at once: lost on {lost}");
    assert_eq!(lost, 0);
}

#[test]
fn a_wire_whose_making_was_cut_short_is_finished() {
    let pair = Pair::new();
    let [near, far] = &pair.guests;
    let make = |name: &str| {
        // As the kernel has it between the making of a pair and the first word about it.
        let (near, far) =
            (near.netns().try_clone_to_owned().expect("dup"), far.netns().try_clone_to_owned().expect("dup"));
        pair.host.program(&["ip", "link", "add", name, "type", "veth", "peer", "name", "sother"]);
        for (link, netns) in [(name, near), (if name == "sother" { name } else { "sother" }, far)] {
            let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&netns));
            pair.host.program(&["ip", "link", "set", link, "netns", &path]);
        }
    };
    make(TEMPORARY);
    far.program(&["ip", "link", "set", "sother", "name", TEMPORARY]);
    pair.join().expect("finished");
    assert_eq!(pair.links(), [vec![], vec!["eth1".to_owned()], vec!["wan".to_owned()]]);
}

#[test]
fn a_guests_own_link_of_that_name_is_left_and_the_wire_is_not_made() {
    let pair = Pair::new();
    pair.guests[1].program(&["ip", "link", "add", "wan", "type", "bridge"]);
    let joined = pair.join();
    assert!(matches!(&joined, Err(Error::Taken { name, .. }) if name == "wan"), "{joined:?}");
    assert_eq!(pair.links(), [vec![], vec![], vec!["wan".to_owned()]]);
    pair.guests[1].program(&["ip", "link", "delete", "wan"]);
    pair.join().expect("joined");
}
