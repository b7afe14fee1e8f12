//! Records that a keeper, its daemon, or an older or newer one of them could send.

use proptest::collection::vec;
use proptest::prelude::*;
use testkit::fuzz::feed;

use crate::protocol::{KeepEvent, KeepRequest, KeepSpec, Message, SessionState, Status, to_bytes};
use crate::wire::Field;

/// Tagged fields, some with lengths that lie.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let field =
        (0u8..24, vec(any::<u8>(), 0..24), prop::option::weighted(0.1, any::<u32>())).prop_map(|(tag, value, lie)| {
            let length = lie.unwrap_or(value.len() as u32);
            [&[tag][..], &length.to_le_bytes(), &value].concat()
        });
    vec(field, 0..10).prop_map(|fields| fields.concat())
}

/// What is read is written, and read again as the same.
fn there_and_back<M: Message + PartialEq + std::fmt::Debug>(kind: u8, record: &[u8]) {
    if let Some(message) = M::decode(kind, record) {
        let again = to_bytes(1, &message);
        assert_eq!(M::decode(again[1], &again[6..]).as_ref(), Some(&message));
    }
}

#[test]
fn any_record_can_be_offered_to_keeper_and_daemon() {
    feed("keeper protocol", &(0u8..24, record()), |(kind, record)| {
        there_and_back::<KeepRequest>(kind, &record);
        there_and_back::<KeepEvent>(kind, &record);
    });
}

#[test]
fn any_record_can_be_offered_as_what_was_saved() {
    feed("saved states of keepers", &record(), |record| {
        let _ = KeepSpec::take(&record);
        let _ = Status::take(&record);
        let _ = SessionState::take(&record);
    });
}
