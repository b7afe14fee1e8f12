//! Which of our crates may know which: `edge → decision → vocabulary ← mechanism`.

use crate::workspace::Package;

/// Where a crate stands, and which of our crates it may name. What is in no row is refused: a new crate says where it stands.
const LAYERS: [(&str, &[&str]); 20] = [
    // Vocabulary: plain types, for everybody.
    ("model", &[]),
    ("config", &["model"]),
    ("sysctl-api", &[]),
    ("sftp", &[]),
    // Decision: never a mechanism, never the wire.
    ("plan", &["config", "model"]),
    ("store", &[]),
    ("engine", &["config", "model", "plan", "store"]),
    // Mechanism: the kernel and vocabulary, never one another.
    ("kernel", &[]),
    ("runtime", &["kernel", "model"]),
    ("storage", &["kernel", "model"]),
    ("network", &["kernel", "model"]),
    ("images", &["kernel", "model"]),
    // The program around the runtime; it also unpacks images and serves files, in processes of their own.
    ("keeper", &["images", "kernel", "model", "runtime", "sftp"]),
    // Edge.
    ("server", &["config", "engine", "model", "sftp", "sysctl-api"]),
    (
        "sysctld",
        &["config", "engine", "images", "kernel", "model", "network", "plan", "runtime", "server", "storage", "store"],
    ),
    ("sysctl-client", &["sysctl-api"]),
    ("sysctl-cli", &["sysctl-api", "sysctl-client"]),
    // Support.
    ("testkit", &["config", "engine", "kernel", "model", "plan", "store"]),
    ("xtask", &[]),
    // Its limit does by the same calls what the runtime does.
    ("bench", &["kernel"]),
];

/// What tests of any crate may use in addition.
const IN_TESTS: [&str; 4] = ["config", "kernel", "model", "testkit"];

/// Tests of the daemon's edges drive it as users do.
const IN_TESTS_OF: [(&str, &[&str]); 2] =
    [("sysctld", &["sysctl-api", "sysctl-client"]), ("server", &["plan", "store"])];

pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = LAYERS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("crate {name} is in no layer: give it a row in crates/xtask/src/tidy/edges.rs"));
            continue;
        };
        let more = IN_TESTS_OF.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, more)| more);
        for edge in package.dependencies.iter().filter(|edge| edge.ours) {
            let to = edge.name.as_str();
            let good = allowed.contains(&to) || edge.dev && (IN_TESTS.contains(&to) || more.contains(&to));
            if !good {
                let kind = if edge.dev { "tests of " } else { "" };
                let may = if allowed.is_empty() { "none of ours".to_owned() } else { allowed.join(", ") };
                wrong.push(format!("{kind}{name} may not depend on {to} (it may on {may})"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, edges: &[(&str, bool)]) -> Package {
        let edge = |(name, dev): &(&str, bool)| Dependency { name: (*name).into(), dev: *dev, ours: true };
        Package { name: name.into(), directory: "/x".into(), dependencies: edges.iter().map(edge).collect() }
    }

    #[test]
    fn forbidden_edges_are_found() {
        let good = [
            package("runtime", &[("kernel", false), ("model", false), ("testkit", true)]),
            package("sysctl-cli", &[("sysctl-api", false), ("sysctl-client", false)]),
        ];
        assert_eq!(check(&good), [""; 0]);
        for (name, edge) in [
            ("runtime", ("network", false)),
            ("network", ("engine", false)),
            ("plan", ("kernel", false)),
            ("engine", ("sysctl-api", false)),
            ("sysctl-cli", ("engine", false)),
            ("engine", ("testkit", false)),
            ("server", ("plan", false)),
            ("xtask", ("model", false)),
            ("storage", ("runtime", true)),
        ] {
            assert_eq!(check(&[package(name, &[edge])]).len(), 1, "{name} → {edge:?}");
        }
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        assert!(check(&[package("helpers", &[])])[0].contains("helpers"));
    }

    #[test]
    fn layers_have_no_circle() {
        // Every crate only names crates of rows above it or of no row that names it back.
        for (name, allowed) in LAYERS {
            for to in allowed {
                let (_, back) = LAYERS.iter().find(|(known, _)| known == to).expect("a known crate");
                assert!(!back.contains(&name), "{name} ↔ {to}");
            }
        }
    }
}
