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
    /// Who is joined with whom.
    pub(crate) wires: Vec<Wire>,
    /// What lies between a network and an instance.
    pub(crate) chains: Vec<ChainLine>,
}

/// A chain: its functions that packets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ChainLine {
    /// Its name.
    pub(crate) name: String,
    /// The network.
    pub(crate) from: String,
    /// Instances, from the network to the end.
    pub(crate) functions: Vec<String>,
    /// The instance at the end.
    pub(crate) to: String,
    /// Its device.
    pub(crate) device: String,
}

impl ChainLine {
    fn stops(&self) -> Vec<&str> {
        let functions = self.functions.iter().map(String::as_str);
        [self.from.as_str()].into_iter().chain(functions).chain([self.to.as_str()]).collect()
    }
}

/// A wire: two ends, each an instance and its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Wire {
    /// An instance.
    pub(crate) from: String,
    /// Its device.
    pub(crate) device: String,
    /// The other instance.
    pub(crate) to: String,
    /// That one's device.
    pub(crate) to_device: String,
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
pub(crate) fn of(namespaces: &[NamespaceView], wires: &[engine::Joined], chains: Vec<ChainLine>) -> Graph {
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
    let wire = |[(from, device), (to, to_device)]: &engine::Joined| Wire {
        from: from.to_string(),
        device: device.to_string(),
        to: to.to_string(),
        to_device: to_device.to_string(),
    };
    Graph { instances, edges, wires: wires.iter().map(wire).collect(), chains }
}

/// For people: an instance a line, and below it what it shares.
pub(crate) fn text(graph: &Graph) -> String {
    let mut out = String::new();
    for instance in &graph.instances {
        let _ = writeln!(out, "{instance}");
        for edge in graph.edges.iter().filter(|edge| edge.from == *instance) {
            let _ = writeln!(out, "  {} ─▶ {}", edge.kinds.join(","), label(&edge.to));
        }
        for wire in &graph.wires {
            if wire.from == *instance {
                let _ = writeln!(out, "  {} ─── {}:{}", wire.device, wire.to, wire.to_device);
            } else if wire.to == *instance {
                let _ = writeln!(out, "  {} ─── {}:{}", wire.to_device, wire.from, wire.device);
            }
        }
    }
    for chain in &graph.chains {
        let _ = writeln!(out, "{}: {}:{}", chain.name, chain.stops().join(" ─▶ "), chain.device);
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
    for wire in &graph.wires {
        let (from, to) = (quoted(&wire.from), quoted(&wire.to));
        let (near, far) = (quoted(&wire.device), quoted(&wire.to_device));
        let _ = writeln!(out, "  {from} -> {to} [dir=none, taillabel={near}, headlabel={far}];");
    }
    for chain in &graph.chains {
        let stops: Vec<String> = chain.stops().into_iter().map(quoted).collect();
        let _ = writeln!(out, "  {} [label={}];", stops.join(" -> "), quoted(&chain.name));
    }
    out.push_str("}\n");
    out
}

/// For Mermaid.
pub(crate) fn mermaid(graph: &Graph) -> String {
    let mut names: Vec<&str> = graph.instances.iter().map(String::as_str).collect();
    names.extend(graph.edges.iter().map(|edge| label(&edge.to)));
    names.extend(graph.chains.iter().flat_map(ChainLine::stops));
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
    for wire in &graph.wires {
        let ends = quoted(&format!("{} – {}", wire.device, wire.to_device));
        let _ = writeln!(out, "  n{} ---|{ends}| n{}", number(&wire.from), number(&wire.to));
    }
    for chain in &graph.chains {
        let stops: Vec<String> = chain.stops().into_iter().map(|name| format!("n{}", number(name))).collect();
        let _ = writeln!(out, "  {}", stops.join(&format!(" -- {} --> ", quoted(&chain.name))));
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

    fn wire() -> engine::Joined {
        let end = |name: &str, device: &str| (name.parse().expect("name"), device.parse().expect("name"));
        [end("db1", "wan"), end("web1", "eth1")]
    }

    fn chain() -> ChainLine {
        let name = |text: &str| text.to_owned();
        let functions = vec![name("fw1")];
        ChainLine { name: name("edge"), from: name("br0"), functions, to: name("web1"), device: name("eth0") }
    }

    fn sidecar() -> Graph {
        of(
            &[
                namespace("net", 1, "instance:db1", &["db1", "web1"]),
                namespace("user", 2, "instance:db1", &["db1", "web1"]),
                namespace("pid", 3, "instance:db1", &["db1"]),
                namespace("pid", 4, "instance:web1", &["web1"]),
                namespace("uts", 5, "host", &["web1"]),
            ],
            &[wire()],
            vec![chain()],
        )
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
        let graph = of(
            &[namespace("net", 1, "instance:host", &["host", "web1"]), namespace("uts", 2, "host", &["host", "web1"])],
            &[],
            Vec::new(),
        );
        assert_eq!(text(&graph), "host\n  uts ─▶ the host\nweb1\n  uts ─▶ the host\n  net ─▶ host\n");
        assert!(mermaid(&graph).contains("n0[\"host\"]\n  n1[\"the host\"]"));
    }

    #[test]
    fn pictures_have_every_node_and_edge() {
        let graph = sidecar();
        assert_eq!(
            text(&graph),
            "db1\n  wan ─── web1:eth1\nweb1\n  uts ─▶ the host\n  net,user ─▶ db1\n  eth1 ─── db1:wan\nedge: br0 ─▶ fw1 ─▶ web1:eth0\n"
        );
        assert!(dot(&graph).contains("\"web1\" -> \"db1\" [label=\"net,user\"];"));
        assert!(dot(&graph).contains("\"db1\" -> \"web1\" [dir=none, taillabel=\"wan\", headlabel=\"eth1\"];"));
        assert!(dot(&graph).contains("\"br0\" -> \"fw1\" -> \"web1\" [label=\"edge\"];"));
        let mermaid = mermaid(&graph);
        assert!(mermaid.contains("n0 -- \"edge\" --> n2 -- \"edge\" --> n4"), "{mermaid}");
        assert!(mermaid.contains("n1 ---|\"wan – eth1\"| n4"), "{mermaid}");
        assert!(mermaid.contains("n3[\"the host\"]") && mermaid.contains("n4 -- net,user --> n1"), "{mermaid}");
    }
}
