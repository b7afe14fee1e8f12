//! Packets of all kinds, whole, cut off and made up.

use proptest::prelude::*;
use sftp::{Attributes, Code, Entry, MAX_PACKET, Malformed, OpenFlags, Reply, Request};

fn attributes() -> impl Strategy<Value = Attributes> {
    (any::<Option<u64>>(), any::<Option<(u32, u32)>>(), any::<Option<u32>>(), any::<Option<(u32, u32)>>())
        .prop_map(|(size, owner, mode, times)| Attributes { size, owner, mode, times })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..=255, 0..200)
}

/// Every kind of request over the same ingredients.
fn requests<'a>(a: &'a [u8], b: &'a [u8], handle: &'a [u8], attributes: Attributes, n: u64) -> Vec<Request<'a>> {
    let flag = |at: u32| n & (1 << at) != 0;
    let flags = OpenFlags {
        read: flag(0),
        write: flag(1),
        append: flag(2),
        create: flag(3),
        truncate: flag(4),
        exclusive: flag(5),
    };
    vec![
        Request::Open { path: a, flags, attributes },
        Request::Close { handle },
        Request::Read { handle, offset: n, length: n as u32 },
        Request::Write { handle, offset: n, data: a },
        Request::Lstat { path: a },
        Request::Fstat { handle },
        Request::Setstat { path: a, attributes },
        Request::Fsetstat { handle, attributes },
        Request::Opendir { path: a },
        Request::Readdir { handle },
        Request::Remove { path: a },
        Request::Mkdir { path: a, attributes },
        Request::Rmdir { path: a },
        Request::Realpath { path: a },
        Request::Stat { path: a },
        Request::Rename { from: a, to: b },
        Request::Readlink { path: a },
        Request::Symlink { target: a, path: b },
        Request::PosixRename { from: a, to: b },
        Request::Hardlink { from: a, to: b },
        Request::Fsync { handle },
        Request::Statvfs { path: a },
        Request::Limits,
    ]
}

proptest! {
    #[test]
    fn every_request_is_read_as_it_was_written(
        a in path(), b in path(), handle in path(), attributes in attributes(), n: u64, id: u32,
    ) {
        for request in requests(&a, &b, &handle, attributes, n) {
            let mut bytes = Vec::new();
            request.encode(id, &mut bytes);
            let (packet, used) = sftp::split(&bytes).expect("in bounds").expect("whole");
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(Request::decode(packet), Ok((id, request)));
            // Cut off anywhere it is not whole, and its fields alone are refused.
            for end in 0..bytes.len() {
                prop_assert_eq!(sftp::split(&bytes[..end]), Ok(None));
            }
            for end in 0..packet.len().min(64) {
                let _ = Request::decode(&packet[..end]);
            }
        }
    }

    #[test]
    fn every_reply_is_read_as_it_was_written(
        names in prop::collection::vec((path(), attributes()), 0..20), text in "[ -~]{0,80}", code in 0u32..9, id: u32,
    ) {
        let entries = names.iter().map(|(name, attributes)| Entry { name, attributes: *attributes }).collect();
        let replies = [
            Reply::Status(Code::from_number(code), &text),
            Reply::Handle(text.as_bytes()),
            Reply::Data(text.as_bytes()),
            Reply::Names(entries),
            Reply::Attributes(names.first().map(|n| n.1).unwrap_or_default()),
            Reply::Numbers(vec![1, u64::MAX, 3]),
        ];
        for reply in replies {
            let mut bytes = Vec::new();
            reply.encode(id, &mut bytes);
            let (packet, _) = sftp::split(&bytes).expect("in bounds").expect("whole");
            prop_assert_eq!(Reply::decode(packet), Ok((id, reply)));
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind: u8) {
        let _ = sftp::split(&bytes);
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
        let packet: Vec<u8> = [kind].into_iter().chain(bytes).collect();
        let _ = Request::decode(&packet);
        let _ = Reply::decode(&packet);
    }
}

#[test]
fn lengths_out_of_bounds_end_the_conversation() {
    assert_eq!(sftp::split(&[0, 0, 0, 0]), Err(Malformed::Length));
    assert_eq!(sftp::split(&(MAX_PACKET as u32 + 1).to_be_bytes()), Err(Malformed::Length));
    assert_eq!(sftp::split(&(MAX_PACKET as u32).to_be_bytes()), Ok(None));
    assert_eq!(sftp::split(&[0, 0]), Ok(None));
}

#[test]
fn what_is_not_known_is_told_from_what_is_broken() {
    assert_eq!(Request::decode(&[99, 0, 0, 0, 7]), Err(Malformed::Unknown(7)));
    assert_eq!(Request::decode(b"\xc8\0\0\0\x07\0\0\0\x03x@y"), Err(Malformed::Unknown(7)));
    assert_eq!(Request::decode(&[17, 0, 0, 0, 7, 0, 0, 0, 9, b'/']), Err(Malformed::Fields(7)));
    assert_eq!(Request::decode(&[17, 0, 0]), Err(Malformed::NoId));
    assert_eq!(Request::decode(b"\x11\0\0\0\x07\0\0\0\x03/\0a"), Err(Malformed::Fields(7)), "a NUL in a path");
    assert_eq!(Request::decode(&[1, 0, 0, 0, 6]), Ok((0, Request::Init { version: 6 })));
}

#[test]
fn packets_are_those_that_other_programs_send() {
    // OPEN as go's pkg/sftp sends it for `incus file push`: write, create, truncate.
    let open = b"\x03\0\0\0\x05\0\0\0\x06/tmp/f\0\0\0\x1a\0\0\0\0";
    let flags = OpenFlags { write: true, create: true, truncate: true, ..OpenFlags::default() };
    let request = Request::Open { path: b"/tmp/f", flags, attributes: Attributes::default() };
    assert_eq!(Request::decode(open), Ok((5, request)));
    // SETSTAT with an owner, as it follows.
    let setstat = b"\x09\0\0\0\x06\0\0\0\x01f\0\0\0\x02\0\0\0\x00\0\0\x03\xe8";
    let attributes = Attributes { owner: Some((0, 1000)), ..Attributes::default() };
    assert_eq!(Request::decode(setstat), Ok((6, Request::Setstat { path: b"f", attributes })));
}

#[test]
fn data_is_put_in_its_place_or_not_at_all() {
    let mut out = vec![1, 2, 3];
    let none: Result<usize, ()> = sftp::data_with(&mut out, 9, 100, |_| Ok(0));
    assert_eq!((none, &out[..]), (Ok(0), &[1, 2, 3][..]));
    let some: Result<usize, ()> = sftp::data_with(&mut out, 9, 100, |place| {
        place[..5].copy_from_slice(b"hello");
        Ok(5)
    });
    assert_eq!(some, Ok(5));
    let (packet, _) = sftp::split(&out[3..]).expect("in bounds").expect("whole");
    assert_eq!(Reply::decode(packet), Ok((9, Reply::Data(b"hello"))));
}
