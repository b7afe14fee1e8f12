//! Keys of a chain: a network of type `chain`.

use std::collections::BTreeSet;

use model::{DeviceName, InstanceName, NetworkName, OnFailure};

use crate::Invalid;
use crate::instance::given;
use crate::written::Map;

/// Most functions of a chain: each costs every packet some microseconds.
const MOST_FUNCTIONS: usize = 16;

/// What a chain is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainChoice {
    /// The network that it begins at; that of the NIC at its end when `None`.
    pub from: Option<NetworkName>,
    /// The NIC that it ends at.
    pub to: (InstanceName, DeviceName),
    /// Functions, from the network to the instance.
    pub functions: Vec<FunctionChoice>,
    /// What becomes of packets for a function that does not run.
    pub on_failure: OnFailure,
}

/// A function that a chain is asked to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionChoice {
    /// The instance.
    pub name: InstanceName,
    /// Its NIC on the side of the network.
    pub inward: DeviceName,
    /// Its NIC on the other side.
    pub outward: DeviceName,
    /// Packets pass it by.
    pub bypassed: bool,
}

const KEYS: &str = "chain.bypass, chain.from, chain.functions, chain.on_failure, chain.to";

/// Reads the keys of a chain.
pub fn chain(config: &Map) -> Result<ChainChoice, Invalid> {
    let known = |key: &str| key.starts_with("user.") || KEYS.split(", ").any(|known| known == key);
    if let Some((key, value)) = config.iter().find(|(key, _)| !known(key)) {
        return Err(Invalid::new(key, value, format!("unknown key of a chain; known: {KEYS}")));
    }
    let to = given(config, "chain.to").unwrap_or_default();
    let end = to.strip_prefix("instance:").unwrap_or(to);
    let to = end.split_once([':', '/']).and_then(|(name, device)| Some((name.parse().ok()?, device.parse().ok()?)));
    let to = to.ok_or_else(|| {
        let value = given(config, "chain.to").unwrap_or_default();
        Invalid::new("chain.to", value, "INSTANCE:DEVICE is required: the NIC that the chain leads to, like web1:eth0")
    })?;
    let from = given(config, "chain.from").map(|text| {
        let name = text.strip_prefix("network:").unwrap_or(text);
        name.parse().map_err(|e: model::InvalidName| Invalid::new("chain.from", text, e.to_string()))
    });
    let on_failure = match given(config, "chain.on_failure") {
        None | Some("block") => OnFailure::Block,
        Some("bypass") => OnFailure::Bypass,
        Some(other) => return Err(Invalid::new("chain.on_failure", other, "block or bypass is allowed")),
    };
    Ok(ChainChoice { from: from.transpose()?, to, functions: functions(config)?, on_failure })
}

fn list<'a>(config: &'a Map, key: &str) -> impl Iterator<Item = &'a str> {
    given(config, key).unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// `fw1:lan/wan,ids1`: names, and what their links are called where that is not `in` and `out`.
fn functions(config: &Map) -> Result<Vec<FunctionChoice>, Invalid> {
    let written = given(config, "chain.functions").unwrap_or_default();
    let wrong = |reason: &str| Invalid::new("chain.functions", written, reason);
    let bypassed: BTreeSet<&str> = list(config, "chain.bypass").collect();
    let mut functions: Vec<FunctionChoice> = Vec::new();
    for part in list(config, "chain.functions") {
        let (name, links) = part.split_once(':').unwrap_or((part, "in/out"));
        let links =
            links.split_once('/').filter(|(inward, outward)| inward != outward && is_link(inward) && is_link(outward));
        let read = |(inward, outward): (&str, &str)| {
            let (inward, outward) = (inward.parse().ok()?, outward.parse().ok()?);
            Some(FunctionChoice { name: name.parse().ok()?, inward, outward, bypassed: bypassed.contains(name) })
        };
        let function = links.and_then(read);
        let function =
            function.ok_or_else(|| wrong("INSTANCE or INSTANCE:LINK/LINK, with commas between, is allowed"))?;
        if functions.iter().any(|other| other.name == function.name) {
            return Err(wrong(&format!("{} is named twice", function.name)));
        }
        functions.push(function);
    }
    if functions.len() > MOST_FUNCTIONS {
        return Err(wrong(&format!("at most {MOST_FUNCTIONS} functions")));
    }
    match bypassed.iter().find(|name| !functions.iter().any(|function| function.name.as_str() == **name)) {
        Some(name) => Err(Invalid::new("chain.bypass", *name, "is none of chain.functions")),
        None => Ok(functions),
    }
}

/// A device's name that a link can have, too.
fn is_link(name: &str) -> bool {
    name.len() <= 15
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ChainChoice, Invalid> {
        chain(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_chain_is_read_as_people_write_it() {
        let keys = [("chain.from", "br0"), ("chain.to", "web1:eth0"), ("chain.functions", "fw1:lan/wan, ids1")];
        let choice = read(&keys).expect("valid");
        let names: Vec<String> =
            choice.functions.iter().map(|f| format!("{} {} {}", f.name, f.inward, f.outward)).collect();
        assert_eq!(names, ["fw1 lan wan", "ids1 in out"]);
        assert_eq!((choice.to.0.as_str(), choice.to.1.as_str(), choice.on_failure), ("web1", "eth0", OnFailure::Block));
        let long = [("chain.to", "instance:web1/eth0"), ("chain.from", "network:br0"), ("user.x", "1")];
        assert_eq!(read(&long).expect("valid").to, choice.to);
        let bypassed = read(&[("chain.to", "web1:eth0"), ("chain.functions", "fw1,ids1"), ("chain.bypass", "fw1")]);
        assert_eq!(bypassed.expect("valid").functions.iter().map(|f| f.bypassed).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_makes_no_chain_names_key_and_reason() {
        let to = ("chain.to", "web1:eth0");
        for (pairs, word) in [
            (vec![], "chain.to: INSTANCE:DEVICE"),
            (vec![("chain.to", "web1")], "INSTANCE:DEVICE"),
            (vec![to, ("chain.functions", "fw1:lan")], "LINK/LINK"),
            (vec![to, ("chain.functions", "fw1:a/a")], "LINK/LINK"),
            (vec![to, ("chain.functions", "fw1:a/0123456789abcdef")], "LINK/LINK"),
            (vec![to, ("chain.functions", "fw1,fw1")], "named twice"),
            (vec![to, ("chain.functions", "fw1"), ("chain.bypass", "ids1")], "none of chain.functions"),
            (vec![to, ("chain.on_failure", "explode")], "block or bypass"),
            (vec![to, ("ipv4.address", "10.0.0.1/24")], "unknown key of a chain"),
        ] {
            let error = read(&pairs).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
