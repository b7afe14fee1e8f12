//! The database of tests against the real one.

#![allow(missing_docs)]

use proptest::prelude::*;
use store::{Compare, Event, Memory, Op, Store, Txn};
use testkit::Scratch;

const KINDS: [&str; 2] = ["one", "two"];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just("c".to_owned())]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || prop::sample::select(KINDS.to_vec());
    prop_oneof![
        (kind(), word(), word()).prop_map(|(kind, key, body)| Op::Put { kind, key, body }),
        (kind(), word()).prop_map(|(kind, key)| Op::Delete { kind, key }),
        (kind(), word(), word()).prop_map(|(space, value, owner)| Op::Claim { space, value, owner }),
        (kind(), word()).prop_map(|(space, value)| Op::Release { space, value }),
        word().prop_map(|owner| Op::ReleaseAll { owner }),
        (0..9u64).prop_map(|below| Op::DropEvents { below }),
    ]
}

fn txn() -> impl Strategy<Value = Txn> {
    let compare = (prop::sample::select(KINDS.to_vec()), word(), prop::option::of(0..4u64))
        .prop_map(|(kind, key, revision)| Compare { kind, key, revision });
    (prop::collection::vec(compare, 0..2), prop::collection::vec(op(), 0..5))
        .prop_map(|(compare, ops)| Txn { compare, ops })
}

/// Everything that can be read.
fn all(store: &Store) -> String {
    let documents = KINDS.map(|kind| store.list(kind).expect("list"));
    let one = store.get("one", "a").expect("get");
    let claims = KINDS.map(|space| store.claims(space).expect("claims"));
    let events = (store.events(2, 3).expect("events"), store.last_event().expect("last"));
    format!("{documents:?} {one:?} {claims:?} {events:?}")
}

#[test]
fn the_database_of_tests_answers_as_the_real_one_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let scratch = Scratch::new("store-memory");
    let count = std::cell::Cell::new(0);
    let cases = testkit::budget(64, 1000);
    let mut runner = prop::test_runner::TestRunner::new(ProptestConfig::with_cases(cases as u32));
    let compared = runner.run(&prop::collection::vec(txn(), 1..12), |txns| {
        count.set(count.get() + 1);
        let real = Store::open(&scratch.join(format!("{}.db", count.get()))).expect("open");
        let memory = Memory::default();
        let fake = Store::in_memory(memory.clone());
        for (sequence, mut txn) in (1..).zip(txns) {
            txn.ops.push(Op::Event(Event { sequence, at_ms: 1, body: "{}".into() }));
            let expected = runtime.block_on(real.commit(txn.clone()));
            let answer = fake.submit(txn);
            memory.take(None).expect("one waits").tell();
            let found = answer.blocking_recv().expect("told");
            prop_assert_eq!(found, expected);
            prop_assert_eq!(all(&fake), all(&real));
        }
        Ok(())
    });
    compared.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("figure: database of tests: {cases} sequences of transactions answered as the real one does");
}
