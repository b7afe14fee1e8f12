//! Packets of guests and clients as they should not be.

use proptest::collection::vec;
use proptest::prelude::*;
use testkit::fuzz::feed;

use crate::{Reply, Request, split};

/// Packets that get past the first byte: a kind that there is, an id, lengths that may lie.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        vec(any::<u8>(), 0..12),
        (0u32..20, vec(any::<u8>(), 0..20)).prop_map(|(length, text)| [&length.to_be_bytes()[..], &text].concat()),
        any::<u32>().prop_map(|number| number.to_be_bytes().to_vec()),
    ];
    (prop_oneof![0u8..25, 100u8..106, 200u8..202], vec(field, 0..8))
        .prop_map(|(kind, fields)| [&[kind][..], &fields.concat()].concat())
}

#[test]
fn any_packet_can_be_offered_to_either_side() {
    feed("SFTP packets", &packet(), |bytes| {
        let _ = Reply::decode(&bytes);
        if let Ok((id, request)) = Request::decode(&bytes) {
            let mut again = Vec::new();
            request.encode(id, &mut again);
            let (packet, _) = split(&again).expect("well formed").expect("whole");
            assert_eq!(Request::decode(packet).expect("as it was written"), (id, request));
        }
        let _ = split(&bytes);
    });
}
