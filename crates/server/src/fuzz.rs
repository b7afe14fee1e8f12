//! Requests as no client should send them.

use axum::body::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use testkit::fuzz::feed;

use crate::filter::Filter;
use crate::request::{body, decode, parse_query};

/// Values of every kind, deeper and longer than anything expects, under names that mean something.
fn json() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "name",
        "config",
        "devices",
        "source",
        "type",
        "alias",
        "start",
        "profiles",
        "description",
        "ephemeral",
        "action",
        "timeout",
        "force",
        "command",
        "environment",
        "width",
        "args",
        "signal",
        "properties",
        "aliases",
        "target",
        "interactive",
        "user",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((names.clone(), inner), 0..8)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Value>()),
        ]
    })
}

/// A body: JSON, JSON cut off or changed, or noise.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let change = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let changed = (json(), change).prop_map(|(value, change)| {
        let mut text = value.to_string().into_bytes();
        if let Some((at, byte)) = change {
            let at = at.index(text.len());
            text[at] = byte;
        }
        text
    });
    prop_oneof![8 => changed, 1 => vec(any::<u8>(), 0..60), 1 => (0usize..4000).prop_map(|n| vec![b'['; n])]
}

fn offer<T: DeserializeOwned>(bytes: &Bytes) {
    if let Err(error) = body::<T>(bytes) {
        assert_eq!(axum::response::IntoResponse::into_response(error).status(), 400);
    }
}

#[test]
fn any_body_can_be_offered_to_every_request() {
    feed("request bodies", &text(), |text| {
        let bytes = Bytes::from(text);
        offer::<sysctl_api::InstancesPost>(&bytes);
        offer::<sysctl_api::InstancePut>(&bytes);
        offer::<sysctl_api::InstancesPutState>(&bytes);
        offer::<sysctl_api::StatePut>(&bytes);
        offer::<sysctl_api::ExecPost>(&bytes);
        offer::<sysctl_api::ConsolePost>(&bytes);
        offer::<sysctl_api::ExecControl>(&bytes);
        offer::<sysctl_api::ImagePost>(&bytes);
        offer::<sysctl_api::ImagePut>(&bytes);
        offer::<sysctl_api::ImageAliasPost>(&bytes);
        offer::<sysctl_api::ProfilesPost>(&bytes);
        offer::<sysctl_api::ProfilePut>(&bytes);
    });
}

#[test]
fn any_order_can_be_sent_on_a_control_socket() {
    feed("control orders", &text(), |text| drop(serde_json::from_slice::<sysctl_api::ExecControl>(&text)));
}

#[test]
fn any_query_can_be_asked() {
    let part = prop_oneof!["[a-z-]{0,9}=[a-zA-Z0-9%+]{0,12}", "(%[0-9a-fA-F]{0,2}|&|=|\\+|é){0,9}", ".{0,9}"];
    feed("queries", &vec(part, 0..12), |parts| {
        let text = parts.join("&");
        let _ = parse_query(&text);
        let _ = decode(&text);
    });
}

#[test]
fn any_filter_can_be_asked() {
    let words = prop::sample::select(vec![
        "status",
        "eq",
        "ne",
        "and",
        "or",
        "not",
        "\"",
        "config.user.x",
        "(",
        ")",
        "running",
        "é",
    ]);
    let filter = vec(prop_oneof![6 => words.prop_map(str::to_owned), 1 => ".{0,9}"], 0..20);
    feed("filters", &(filter, json()), |(words, object)| {
        if let Ok(filter) = Filter::parse(Some(&words.join(" "))) {
            let _ = filter.matches(&object);
        }
    });
}
