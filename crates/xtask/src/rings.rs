//! The rings of tests, innermost first, and which program belongs to which.

use crate::apt;

/// A ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    Fmt,
    Clippy,
    Tidy,
    Unit,
    Fake,
    Host,
    Attack,
    Crash,
    Fuzz,
    Conformance,
    Vm,
}

/// All of them, in the order in which they are run.
pub(crate) const ALL: [Ring; 11] = [
    Ring::Fmt,
    Ring::Clippy,
    Ring::Tidy,
    Ring::Unit,
    Ring::Fake,
    Ring::Host,
    Ring::Attack,
    Ring::Crash,
    Ring::Fuzz,
    Ring::Conformance,
    Ring::Vm,
];

/// Test programs that work on the real host and therefore as root: package, and program or `*`.
const ON_THE_HOST: [(&str, &str); 7] = [
    ("images", "*"),
    ("keeper", "*"),
    ("network", "*"),
    ("runtime", "host*"),
    ("storage", "*"),
    ("store", "store"),
    ("sysctld", "*"),
];

/// Test programs that wait for the kernel's clocks most of the time: more of their tests run at once.
const WAITING: [(&str, &str); 2] = [("sysctld", "autoscale"), ("sysctld", "idle")];

impl Ring {
    /// As it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ring::Fmt => "fmt",
            Ring::Clippy => "clippy",
            Ring::Tidy => "tidy",
            Ring::Unit => "unit",
            Ring::Fake => "fake",
            Ring::Host => "host",
            Ring::Attack => "attack",
            Ring::Crash => "crash",
            Ring::Fuzz => "fuzz",
            Ring::Conformance => "conformance",
            Ring::Vm => "vm",
        }
    }

    /// By that name.
    pub(crate) fn named(name: &str) -> Option<Ring> {
        ALL.into_iter().find(|ring| ring.name() == name)
    }

    /// Whether it works on the real host.
    pub(crate) fn needs_root(self) -> bool {
        self >= Ring::Host && self != Ring::Fuzz
    }

    /// Debian packages that it calls.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        const NONE: &[&str] = &[];
        match self {
            Ring::Fmt | Ring::Clippy | Ring::Tidy | Ring::Unit | Ring::Fake | Ring::Fuzz => NONE,
            Ring::Host | Ring::Attack | Ring::Crash | Ring::Conformance => &apt::TEST,
            Ring::Vm => &crate::vm::PACKAGES,
        }
    }
}

/// The ring of a test program: `target` is the name of a file in `tests/`, or `None` for the tests inside of a crate.
///
/// Who adds a test program need not touch this: its name or its crate say where it belongs.
pub(crate) fn of(package: &str, target: Option<&str>) -> Ring {
    let Some(target) = target else { return Ring::Unit };
    let begins = |word: &str| target == word || target.starts_with(&format!("{word}_"));
    let on_the_host = ON_THE_HOST.iter().any(|(name, pattern)| *name == package && fits(pattern, target));
    if begins("attack") {
        Ring::Attack
    } else if begins("conformance") {
        Ring::Conformance
    } else if begins("crash") {
        if package == "engine" { Ring::Fake } else { Ring::Crash }
    } else if on_the_host {
        Ring::Host
    } else {
        Ring::Unit
    }
}

/// How many tests of a program run at once, where that is not for the number of processors to say.
pub(crate) fn at_once(package: &str, target: Option<&str>) -> Option<u32> {
    let waits = WAITING.iter().any(|(name, program)| *name == package && Some(*program) == target);
    waits.then_some(4)
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_go_to_their_rings() {
        for (package, target, ring) in [
            ("engine", None, Ring::Unit),
            ("engine", Some("crash"), Ring::Fake),
            ("engine", Some("other"), Ring::Unit),
            ("keeper", Some("guest"), Ring::Host),
            ("network", None, Ring::Unit),
            ("runtime", Some("samples"), Ring::Unit),
            ("sysctld", Some("crash"), Ring::Crash),
            ("sysctld", Some("crash_at_each_call"), Ring::Crash),
            ("sysctld", Some("attack_files"), Ring::Attack),
            ("sysctld", Some("conformance"), Ring::Conformance),
            ("sysctld", Some("conformance_incus"), Ring::Conformance),
            ("sysctld", Some("launch"), Ring::Host),
            ("store", Some("store"), Ring::Host),
            ("sysctl-client", Some("streams"), Ring::Unit),
        ] {
            assert_eq!(of(package, target), ring, "{package} {target:?}");
        }
    }

    #[test]
    fn who_waits_does_so_beside_others() {
        assert_eq!(at_once("sysctld", Some("idle")), Some(4));
        assert!(at_once("sysctld", Some("limits")).is_none() && at_once("sysctld", None).is_none());
    }

    #[test]
    fn rings_are_found_by_their_names() {
        assert!(ALL.into_iter().all(|ring| Ring::named(ring.name()) == Some(ring)));
        assert_eq!(Ring::named("none"), None);
    }
}
