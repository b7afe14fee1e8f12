//! Messages as each release wrote them: a keeper started by any of them must understand today's daemon, and be understood.
//!
//! A sample is never changed; a release adds its own.

use runtime::protocol::*;
use runtime::wire::Blob;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn exec_0_1() -> KeepRequest {
    KeepRequest::Exec(ExecSpec {
        session: 7,
        argv: vec!["id".into(), "-u".into()],
        environment: vec!["PATH=/bin".into()],
        cwd: "/tmp".into(),
        uid: 1000,
        terminal: true,
        columns: 80,
        rows: 24,
        label: Blob(b"op".to_vec()),
        ..ExecSpec::default()
    })
}

fn status_0_1() -> KeepEvent {
    KeepEvent::Status(Status {
        boot: "00000000-0000-0000-0000-000000000001.3".into(),
        phase: phase::RUNNING,
        pid: 4711,
        console: 12,
        sessions: vec![SessionState { session: 7, pid: 4712, input: 3, ..SessionState::default() }],
        keeper: 4700,
        release: "0.1.0".into(),
        ..Status::default()
    })
}

const EXEC_0_1: &str = "010309000000010400000007000000020e0000000002000000696400020000002d75030e0000000009000000504154483d2f\
62696e04040000002f746d700504000000e803000007010000000108020000005000090200000018000c020000006f70";
const STATUS_0_1: &str = "010100000000012600000030303030303030302d303030302d303030302d303030302d3030303030303030303030312e33\
02010000000303040000006712000006080000000c000000000000000724000000001f0000000104000000070000000204000000681200000708000000\
030000000000000009040000005c1200000a05000000302e312e30";

#[test]
fn messages_of_release_0_1_are_read_and_still_written_so() {
    let read = |hex: &str| {
        let bytes = bytes(hex);
        (bytes[0], bytes[1], bytes[6..].to_vec())
    };
    let (version, kind, record) = read(EXEC_0_1);
    assert_eq!((version, KeepRequest::decode(kind, &record)), (1, Some(exec_0_1())));
    let (version, kind, record) = read(STATUS_0_1);
    assert_eq!((version, KeepEvent::decode(kind, &record)), (1, Some(status_0_1())));
    assert_eq!(hex(&to_bytes(9, &exec_0_1())), EXEC_0_1);
    assert_eq!(hex(&to_bytes(0, &status_0_1())), STATUS_0_1);
}

#[test]
fn a_guest_in_shared_namespaces_is_not_asked_of_a_keeper_that_would_give_it_the_hosts() {
    let kind = |spec| KeepRequest::prepare(spec).encode().0;
    assert_eq!(kind(LaunchSpec::default()), 1);
    let clocks = Some(Clocks { from_zero: true, offset_s: 0 });
    assert_eq!(kind(LaunchSpec { clocks, ..LaunchSpec::default() }), 1, "clocks may be skipped");
    // Release 0.1 ends at 13 and answers to 14 that it does not know it.
    assert_eq!(kind(LaunchSpec { joins: vec![Join::default()], ..LaunchSpec::default() }), 14);
    assert_eq!(kind(LaunchSpec { foreign: 0x4000_0000, ..LaunchSpec::default() }), 14);
}

#[test]
fn a_message_of_a_newer_release_is_known_to_be_unknown() {
    assert_eq!(KeepRequest::decode(250, &[]), None);
    // A field that this release does not know is skipped.
    let (_, mut record) = exec_0_1().encode();
    runtime::wire::put_field(200, &"new".to_owned(), &mut record);
    assert_eq!(KeepRequest::decode(3, &record), Some(exec_0_1()));
}
