//! Names for instances that were given none.

use model::InstanceName;

const FIRST: [&str; 32] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "clever", "crisp", "deft", "eager", "fair", "fleet",
    "fresh", "gentle", "golden", "happy", "keen", "kind", "lively", "lucid", "merry", "neat", "noble", "proud",
    "quick", "quiet", "ready", "sound", "swift", "warm", "wise",
];

const SECOND: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "curlew", "dolphin", "falcon", "finch", "gannet", "heron", "ibex", "jay",
    "kestrel", "lark", "lynx", "marmot", "marten", "newt", "osprey", "otter", "owl", "perch", "plover", "raven",
    "robin", "salmon", "seal", "stoat", "swan", "tern", "trout", "wren",
];

/// One of 1,048,576 names.
pub(crate) fn make_up(number: u128) -> InstanceName {
    let pick = |words: &[&'static str; 32], shift: u32| words[(number >> shift) as usize % 32];
    let text = format!("{}-{}-{}", pick(&FIRST, 0), pick(&SECOND, 8), (number >> 16) % 1024);
    // Lower-case letters, hyphens and digits, a letter first.
    text.parse().unwrap_or_else(|_| unreachable!("a valid name"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn made_up_names_are_valid() {
        for n in 0..40_000u128 {
            super::make_up(n * 0x9E37_79B9_7F4A_7C15);
        }
    }
}
