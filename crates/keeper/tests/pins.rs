//! The helper that has namespaces live on without a process, beside ip-netns(8).

#![allow(missing_docs)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use kernel::process::Namespaces;
use runtime::pin::PinOrder;
use runtime::wire::Field;

/// Where ip-netns(8) was never used: `/run` is empty. The helper is first, and its name is removed after that program's first.
const SCRIPT: &str = "
    mount -t tmpfs none /run && mkdir /run/pins
    \"$0\" help pin \"$1\" 3<&0 && ip netns add other && ip netns delete own && ls /run/netns
";

#[test]
fn a_name_that_was_made_before_the_first_of_ip_netns_can_be_removed_by_it() {
    let mut record = Vec::new();
    let (file, link) = ("/run/pins/own".to_owned(), "/run/netns/own".to_owned());
    PinOrder { file, link, kind: Namespaces::NET.bits(), ..PinOrder::default() }.put(&mut record);
    let digits: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
    let (_ours, socket) = UnixDatagram::pair().expect("a socket");
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "sh", "-c", SCRIPT, env!("CARGO_BIN_EXE_sysctl-keeper"), &digits]);
    let output = alone.stdin(OwnedFd::from(socket)).output().expect("unshare");
    let names = String::from_utf8_lossy(&output.stdout);
    assert_eq!((names.trim(), output.status.success()), ("other", true), "{output:?}");
}
