//! Names, sizes, addresses and ranges as users and kernels might write them.

use std::str::FromStr;

use proptest::prelude::*;
use testkit::fuzz::feed;

/// What is read is told as text that is read as the same.
fn there_and_back<T: FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let told = value.to_string();
        assert!(told.parse::<T>().is_ok_and(|again| again == value), "{text:?} became {told:?}");
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,80}",
        "[0-9]{1,22}[kKMGTPE]?i?[Bb]?",
        "[0-9a-f:.]{0,45}/[0-9]{1,4}",
        "([0-9a-fA-F]{0,3}[:-]){0,7}[0-9a-f]{0,2}",
        "[a-zA-Z0-9._-]{0,70}",
        "[0-9a-f]{60,68}",
        "[0-9a-f-]{36}(\\.[0-9]{0,22})?",
    ]
}

#[test]
fn any_text_can_be_offered_as_a_name_a_size_or_an_address() {
    feed("names, sizes, addresses", &text(), |text| {
        there_and_back::<crate::InstanceName>(&text);
        there_and_back::<crate::ProjectName>(&text);
        there_and_back::<crate::DeviceName>(&text);
        there_and_back::<crate::NetworkName>(&text);
        there_and_back::<crate::Cidr>(&text);
        there_and_back::<crate::Mac>(&text);
        there_and_back::<crate::Fingerprint>(&text);
        there_and_back::<crate::Boot>(&text);
        let _ = text.parse::<crate::Bytes>();
    });
}

#[test]
fn any_text_can_be_offered_as_a_list_of_processors() {
    let part = prop_oneof!["[0-9]{0,6}", "[0-9]{1,5}-[0-9]{1,5}", ".{0,5}"];
    feed("lists of processors", &prop::collection::vec(part, 0..9), |parts| {
        let list = crate::limits::parse_cpu_list(&parts.join(","));
        assert!(list.is_none_or(|ids| ids.is_sorted() && ids.len() <= 8192));
    });
}
