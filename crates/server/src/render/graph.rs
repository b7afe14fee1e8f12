//! Who shares which namespaces with whom, as a graph: nodes are instances and the host, an edge is what one has of another.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use sysctl_api::NamespaceView;

/// The graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub(crate) struct Graph {
    /// Instances that run, by name.
    pub(crate) instances: Vec<String>,
    /// Who lives in whose namespaces.
    pub(crate) edges: Vec<Edge>,
}

/// One instance lives in namespaces of another one, of the host, or at a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Edge {
    /// The instance.
    pub(crate) from: String,
    /// Whose namespaces, as a key has it: `host`, `instance:NAME`, `named:OBJECT`, `path:FILE`.
    pub(crate) to: String,
    /// Of which kinds.
    pub(crate) kinds: Vec<String>,
}

const INSTANCE: &str = "instance:";

/// An owner for people: an instance by its bare name, and the host by words that no instance can have for a name.
fn label(owner: &str) -> &str {
    if owner == "host" { "the host" } else { owner.strip_prefix(INSTANCE).unwrap_or(owner) }
}

/// The graph of these namespaces.
pub(crate) fn of(namespaces: &[NamespaceView]) -> Graph {
    let mut instances: Vec<String> = namespaces.iter().flat_map(|n| n.holders.clone()).collect();
    instances.sort();
    instances.dedup();
    let mut edges: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for namespace in namespaces {
        let is_own = |holder: &&String| namespace.owner.strip_prefix(INSTANCE) == Some(holder.as_str());
        for holder in namespace.holders.iter().filter(|holder| !is_own(holder)) {
            edges.entry((holder.clone(), namespace.owner.clone())).or_default().push(namespace.kind.clone());
        }
    }
    let edges = edges.into_iter().map(|((from, to), kinds)| Edge { from, to, kinds }).collect();
    Graph { instances, edges }
}

/// For people: an instance a line, and below it what it shares.
pub(crate) fn text(graph: &Graph) -> String {
    let mut out = String::new();
    for instance in &graph.instances {
        let _ = writeln!(out, "{instance}");
        for edge in graph.edges.iter().filter(|edge| edge.from == *instance) {
            let _ = writeln!(out, "  {} ─▶ {}", edge.kinds.join(","), label(&edge.to));
        }
    }
    out
}

/// For Graphviz.
pub(crate) fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph namespaces {\n");
    for instance in &graph.instances {
        let _ = writeln!(out, "  {};", quoted(instance));
    }
    for edge in &graph.edges {
        let (from, to, kinds) = (quoted(&edge.from), quoted(label(&edge.to)), quoted(&edge.kinds.join(",")));
        let _ = writeln!(out, "  {from} -> {to} [label={kinds}];");
    }
    out.push_str("}\n");
    out
}

/// For Mermaid.
pub(crate) fn mermaid(graph: &Graph) -> String {
    let mut names: Vec<&str> = graph.instances.iter().map(String::as_str).collect();
    names.extend(graph.edges.iter().map(|edge| label(&edge.to)));
    names.sort_unstable();
    names.dedup();
    let number = |name: &str| names.binary_search(&name).unwrap_or(0);
    let mut out = String::from("flowchart LR\n");
    for (n, name) in names.iter().enumerate() {
        let _ = writeln!(out, "  n{n}[{}]", quoted(name));
    }
    for edge in &graph.edges {
        let _ = writeln!(out, "  n{} -- {} --> n{}", number(&edge.from), edge.kinds.join(","), number(label(&edge.to)));
    }
    out
}

/// Paths of pins may have any character.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(kind: &str, inode: u64, owner: &str, holders: &[&str]) -> NamespaceView {
        let holders = holders.iter().map(|name| (*name).to_owned()).collect();
        NamespaceView { kind: kind.into(), inode, owner: owner.into(), holders, ..NamespaceView::default() }
    }

    fn sidecar() -> Graph {
        of(&[
            namespace("net", 1, "instance:db1", &["db1", "web1"]),
            namespace("user", 2, "instance:db1", &["db1", "web1"]),
            namespace("pid", 3, "instance:db1", &["db1"]),
            namespace("pid", 4, "instance:web1", &["web1"]),
            namespace("uts", 5, "host", &["web1"]),
        ])
    }

    #[test]
    fn sharing_is_an_edge_and_owning_is_none() {
        let graph = sidecar();
        assert_eq!(graph.instances, ["db1", "web1"]);
        let edges: Vec<(&str, &str, String)> =
            graph.edges.iter().map(|e| (e.from.as_str(), e.to.as_str(), e.kinds.join(","))).collect();
        assert_eq!(edges, [("web1", "host", "uts".to_owned()), ("web1", "instance:db1", "net,user".to_owned())]);
    }

    #[test]
    fn an_instance_that_is_called_host_is_not_the_host() {
        let graph = of(&[
            namespace("net", 1, "instance:host", &["host", "web1"]),
            namespace("uts", 2, "host", &["host", "web1"]),
        ]);
        assert_eq!(text(&graph), "host\n  uts ─▶ the host\nweb1\n  uts ─▶ the host\n  net ─▶ host\n");
        assert!(mermaid(&graph).contains("n0[\"host\"]\n  n1[\"the host\"]"));
    }

    #[test]
    fn pictures_have_every_node_and_edge() {
        let graph = sidecar();
        assert_eq!(text(&graph), "db1\nweb1\n  uts ─▶ the host\n  net,user ─▶ db1\n");
        assert!(dot(&graph).contains("\"web1\" -> \"db1\" [label=\"net,user\"];"));
        let mermaid = mermaid(&graph);
        assert!(mermaid.contains("n1[\"the host\"]") && mermaid.contains("n2 -- net,user --> n0"), "{mermaid}");
    }
}
