//! Which name servers the host uses, from the text of its `resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const DNS_PORT: u16 = 53;
/// The host's own resolver looks at no more either (`MAXNS`).
const MOST: usize = 3;

/// The name servers in the order in which they are to be asked, at most three. As the manual says, it is the host
/// itself when the text names none.
///
/// `index_of` tells the index of a link by its name, for link-local addresses like `fe80::1%eth0`; entries with a link
/// that it does not know are left out.
pub fn name_servers(text: &str, index_of: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|word| parse(word, &index_of));
        servers.extend(server.filter(|server| !servers.contains(server)));
    }
    servers.truncate(MOST);
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DNS_PORT));
    }
    servers
}

fn parse(word: &str, index_of: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, link)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, DNS_PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = link.parse().ok().or_else(|| index_of(link))?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_the_rest_is_ignored() {
        let text = "# nameserver 1.1.1.1\n; no\nsearch lab\n nameserver\t127.0.0.53 trailing\nnameserver fe80::1%eth7\n\
                    nameserver fe80::1%gone\nnameserver nonsense\nnameserver\nnameserver 127.0.0.53\n\
                    options edns0\nnameserver ::1\nnameserver 9.9.9.9\n";
        let servers = name_servers(text, |link| (link == "eth7").then_some(7));
        let text: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["127.0.0.53:53", "[fe80::1%7]:53", "[::1]:53"]);
    }

    #[test]
    fn without_any_the_host_itself_is_asked() {
        assert_eq!(name_servers("", |_| None), ["127.0.0.1:53".parse().expect("address")]);
    }
}
