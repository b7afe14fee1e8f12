//! Guests on the managed bridge: addresses, leases, names, each other, and a firewall that lets nothing in.

#![allow(missing_docs)]

mod support;

use std::process::Command;

use support::Daemon;

async fn bridge(daemon: &Daemon) -> String {
    let networks = daemon.client.get_networks(&Default::default()).await.expect("networks");
    networks.into_iter().find(|network| network.managed).expect("a managed network").name
}

/// The address of a family that an instance shows.
async fn address(daemon: &Daemon, name: &str, family: &str) -> String {
    let state = daemon.client.get_instance_state(name).await.expect("state");
    let links = state.network.expect("links");
    let global = |a: &&sysctl_api::StateAddress| a.family == family && a.scope == "global";
    links["eth0"].addresses.iter().find(global).expect("an address").address.clone()
}

#[tokio::test]
async fn guests_have_addresses_before_init_and_know_each_other_by_name() {
    let daemon = Daemon::new("names");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("web2", &[]).await;
    let server = gateway(&daemon).await;
    for family in ["inet", "inet6"] {
        let wanted = address(&daemon, "web2", family).await;
        let seen = daemon.print("web1", &["nslookup", "web2.sysctl", &server]).await;
        assert!(seen.contains(&wanted), "{family} {wanted}: {seen}");
    }
    let four = address(&daemon, "web2", "inet").await;
    daemon.print("web1", &["ping", "-c", "1", "-W", "5", &four]).await;
    let six = address(&daemon, "web2", "inet6").await;
    daemon.print("web1", &["ping", "-6", "-c", "1", "-W", "5", &six]).await;
    let unknown = daemon.exec("web1", &["nslookup", "nobody.sysctl", &server]).await;
    assert_ne!(unknown.code, 0, "{unknown:?}");
    // Names follow what happens.
    daemon.change("web2", "stop", true).await;
    daemon.try_delete("web2").await.expect("deleted");
    assert_ne!(daemon.exec("web1", &["nslookup", "web2.sysctl", &server]).await.code, 0);
    let leases = daemon.client.get_network_leases(&bridge(&daemon).await).await.expect("leases");
    assert!(leases.iter().any(|lease| lease.hostname == "web1"), "{leases:?}");
    daemon.finish().await;
}

/// The gateway, which also answers for names.
async fn gateway(daemon: &Daemon) -> String {
    daemon.print("web1", &["sh", "-c", "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'"]).await
}

/// A host firewall that drops everything that comes in over a bridge.
struct Closed(String);

impl Closed {
    fn new(bridge: &str) -> Closed {
        let table = format!("test_closed_{}", std::process::id());
        let rules = format!(
            "table inet {table} {{ chain input {{ type filter hook input priority 0; policy accept; iifname \"{bridge}\" drop; }}; }}"
        );
        assert!(Command::new("nft").arg(rules).status().expect("nft").success());
        Closed(table)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", &self.0]).status();
    }
}

#[tokio::test]
async fn a_firewall_that_lets_nothing_in_stops_neither_leases_nor_names() {
    let daemon = Daemon::new("closed");
    daemon.import_busybox().await;
    let _closed = Closed::new(&bridge(&daemon).await);
    daemon.launch("web1", &[]).await;
    let server = gateway(&daemon).await;
    let mine = address(&daemon, "web1", "inet").await;
    daemon.print("web1", &["ip", "address", "flush", "dev", "eth0"]).await;
    let lease = daemon.print("web1", &["sh", "-c", "udhcpc -i eth0 -n -q -f -s /bin/true 2>&1"]).await;
    assert!(lease.contains(&mine), "{lease}");
    daemon.print("web1", &["ip", "address", "add", &format!("{mine}/24"), "dev", "eth0"]).await;
    assert!(daemon.print("web1", &["nslookup", "web1.sysctl", &server]).await.contains(&mine));
    // The firewall does what it is there for.
    assert_ne!(daemon.exec("web1", &["ping", "-c", "1", "-W", "1", &server]).await.code, 0);
    daemon.finish().await;
}

#[tokio::test]
async fn a_guest_cannot_take_its_neighbours_address() {
    let daemon = Daemon::new("spoof");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("web2", &[]).await;
    let victim = address(&daemon, "web2", "inet").await;
    daemon.change("web2", "stop", true).await;
    daemon.print("web1", &["ip", "address", "add", &format!("{victim}/24"), "dev", "eth0"]).await;
    let gateway = gateway(&daemon).await;
    assert_eq!(daemon.exec("web1", &["ping", "-c", "1", "-W", "2", &gateway]).await.code, 0);
    assert_ne!(daemon.exec("web1", &["ping", "-I", &victim, "-c", "1", "-W", "1", &gateway]).await.code, 0);
    daemon.finish().await;
}
