//! The rules, as data. Read this file to know what the firewall does.

use model::Mac;

use super::elements::Set;

/// Where the kernel loads a value from, and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// A property of the packet (`meta`).
    Meta { key: u32, length: usize },
    /// Bytes of the packet: from the link, network or transport header on.
    Payload { base: u32, offset: u32, length: usize },
    /// The state of the packet's connection, as a set of bits.
    ConnectionState,
}

impl Load {
    pub(super) fn length(self) -> usize {
        match self {
            Load::Meta { length, .. } | Load::Payload { length, .. } => length,
            Load::ConnectionState => 4,
        }
    }
}

const fn meta(key: u32, length: usize) -> Load {
    Load::Meta { key, length }
}
const fn link(offset: u32, length: usize) -> Load {
    Load::Payload { base: 0, offset, length }
}
const fn network(offset: u32, length: usize) -> Load {
    Load::Payload { base: 1, offset, length }
}
const fn transport(offset: u32, length: usize) -> Load {
    Load::Payload { base: 2, offset, length }
}

const IN: Load = meta(6, 16); // iifname
const OUT: Load = meta(7, 16); // oifname
const FAMILY: Load = meta(15, 1); // nfproto
const PROTOCOL: Load = meta(16, 1); // l4proto, found behind all extension headers of IPv6

const ETHER_TO: Load = link(0, 6);
const ETHER_FROM: Load = link(6, 6);
/// For a tagged frame the kernel answers with the tag's type, also when the hardware has taken the tag off.
const ETHER_TYPE: Load = link(12, 2);

const ARP_FORMAT: Load = network(0, 6);
const ARP_SENDER_MAC: Load = network(8, 6);
const ARP_SENDER_IP: Load = network(14, 4);
const IP4_FROM: Load = network(12, 4);
const IP4_TO: Load = network(16, 4);
const IP6_FROM: Load = network(8, 16);
const IP6_TO: Load = network(24, 16);

const PORT_FROM: Load = transport(0, 2);
const PORT_TO: Load = transport(2, 2);
const ICMP_TYPE: Load = transport(0, 1);
const ND_TARGET: Load = transport(8, 16);

const TYPE_IPV4: &[u8] = &[0x08, 0x00];
const TYPE_IPV6: &[u8] = &[0x86, 0xdd];
const IPV4: &[u8] = &[2];
const IPV6: &[u8] = &[10];
const ICMP: &[u8] = &[1];
const TCP: &[u8] = &[6];
const UDP: &[u8] = &[17];
const ICMPV6: &[u8] = &[58];
const MLD_REPORT: u8 = 131;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLD2_REPORT: u8 = 143;
/// `fd00:ec2::254`
const CLOUD_METADATA6: &[u8] = &[0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54];
const DHCP4_SERVER: &[u8] = &67u16.to_be_bytes();
const DHCP6_SERVER: &[u8] = &547u16.to_be_bytes();
const DNS: &[u8] = &53u16.to_be_bytes();

/// One condition of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// The value is (not) these bytes.
    Is { load: Load, value: Vec<u8>, negated: bool },
    /// The bits of the mask are (not) those of the value.
    Bits { load: Load, mask: Vec<u8>, value: Vec<u8>, negated: bool },
    /// The values, one behind the other, are (not) an element of the set.
    In { loads: Vec<Load>, set: Set, negated: bool },
    /// Packets with this value, counted in the set, came oftener than so many in a second.
    Over { load: Load, set: Set, per_second: u32 },
}

/// A guest may ask us so many questions in a second (and once as many in no time): twice what its answers are limited
/// to (`serve/respond.rs`). What is more is no question but an attempt to keep the daemon busy, and ends in the kernel.
const QUESTIONS_PER_SECOND: u32 = 1000;

/// What a rule does when all its conditions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let it pass.
    Accept,
    /// Throw it away.
    Drop,
    /// Go on in another chain and come back.
    Jump(&'static str),
    /// Go on in another chain; its end is the end.
    Goto(&'static str),
    /// Give it the address of the interface that it leaves by.
    Masquerade,
    /// Send it out by the interface of this index.
    Forward(u32),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) verdict: Verdict,
}

/// A chain; one with a hook is where packets come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Where in the kernel a chain hangs, as in linux/netfilter.h and linux/netfilter_bridge.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// Collects the conditions of one rule.
#[derive(Default)]
struct When(Vec<Match>);

impl When {
    fn having(mut self, load: Load, value: &[u8]) -> When {
        self.0.push(Match::Is { load, value: value.to_vec(), negated: false });
        self
    }
    fn not_having(mut self, load: Load, value: &[u8]) -> When {
        self.0.push(Match::Is { load, value: value.to_vec(), negated: true });
        self
    }
    fn within(mut self, loads: &[Load], set: Set) -> When {
        self.0.push(Match::In { loads: loads.to_vec(), set, negated: false });
        self
    }
    fn outside(mut self, loads: &[Load], set: Set) -> When {
        self.0.push(Match::In { loads: loads.to_vec(), set, negated: true });
        self
    }
    /// The bits of `mask` are those of `value`.
    fn bits(mut self, load: Load, mask: &[u8], value: &[u8]) -> When {
        self.0.push(Match::Bits { load, mask: mask.to_vec(), value: value.to_vec(), negated: false });
        self
    }
    fn too_often(mut self) -> When {
        self.0.push(Match::Over { load: IN, set: Set::Askers, per_second: QUESTIONS_PER_SECOND });
        self
    }
    fn then(self, verdict: Verdict) -> Rule {
        Rule { matches: self.0, verdict }
    }
}

fn when() -> When {
    When::default()
}

fn always(verdict: Verdict) -> Rule {
    when().then(verdict)
}

fn icmpv6(kind: u8) -> When {
    when().having(PROTOCOL, ICMPV6).having(ICMP_TYPE, &[kind])
}

/// Frames that come from another hardware address are thrown away.
pub(super) fn unless_from(mac: Mac) -> Rule {
    when().not_having(ETHER_FROM, &mac.0).then(Verdict::Drop)
}

/// All frames leave by the link of this index.
pub(super) fn forward(link: u32) -> Rule {
    always(Verdict::Forward(link))
}

/// A chain that other chains lead to.
fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain { name, hook: None, rules }
}

/// The table of family `inet`: packets that the host receives, forwards or sends out.
pub(super) fn routed() -> Vec<Chain> {
    use Verdict::{Accept, Drop, Goto, Masquerade};
    let hook = |kind, number, priority| Some(Hook { kind, number, priority });
    let guest_of_closed_host = || when().within(&[IN], Set::Bridges).outside(&[IN], Set::HostOpen);
    let input = vec![when().within(&[IN], Set::Bridges).then(Goto("guests"))];
    let forward = vec![
        // With br_netfilter, frames between two ports of one bridge come along here too.
        when().within(&[IN, OUT], Set::Loops).then(Accept),
        // The services that clouds offer to their machines, keys to the account among them, are for the host. Of the
        // first kind no router may pass anything on (RFC 3927, 7); the second is Amazon's.
        guest_of_closed_host().having(FAMILY, IPV4).bits(IP4_TO, &[255, 255, 0, 0], &[169, 254, 0, 0]).then(Drop),
        guest_of_closed_host().having(FAMILY, IPV6).having(IP6_TO, CLOUD_METADATA6).then(Drop),
        when().within(&[IN], Set::Isolated).within(&[OUT], Set::Bridges).then(Drop),
        when().within(&[IN], Set::Bridges).within(&[OUT], Set::Isolated).then(Drop),
        when().within(&[IN], Set::Bridges).then(Accept),
        when().within(&[OUT], Set::Bridges).then(Accept),
    ];
    let leaving = |family, set| when().having(FAMILY, family).within(&[IN], set).outside(&[OUT], Set::Bridges);
    let postrouting = vec![leaving(IPV4, Set::Nat4).then(Masquerade), leaving(IPV6, Set::Nat6).then(Masquerade)];
    vec![
        chain("guests", guests()),
        Chain { name: "input", hook: hook("filter", 1, 0), rules: input },
        Chain { name: "forward", hook: hook("filter", 2, 0), rules: forward },
        Chain { name: "postrouting", hook: hook("nat", 4, 100), rules: postrouting },
    ]
}

/// What guests may send to the host itself.
fn guests() -> Vec<Rule> {
    use Verdict::{Accept, Drop};
    let to_gateway4 = || when().having(FAMILY, IPV4).within(&[IN, IP4_TO], Set::Gateways4);
    let to_gateway6 = || when().having(FAMILY, IPV6).within(&[IN, IP6_TO], Set::Gateways6);
    vec![
        // These were already answered from the packet socket. Without the drop the host would answer a second time:
        // with "port unreachable", which ends the guest's query, or from a name server of its own. Here and not
        // earlier, because with br_netfilter earlier chains see frames before the packet socket does.
        when().having(PROTOCOL, UDP).having(PORT_TO, DHCP4_SERVER).then(Drop),
        to_gateway4().having(PROTOCOL, UDP).having(PORT_TO, DNS).then(Drop),
        to_gateway6().having(PROTOCOL, UDP).having(PORT_TO, DNS).then(Drop),
        when().within(&[IN], Set::HostOpen).then(Accept),
        When(vec![Match::Bits {
            load: Load::ConnectionState,
            mask: 6u32.to_ne_bytes().to_vec(), // established 2, related 4
            value: vec![0; 4],
            negated: true,
        }])
        .then(Accept),
        // Ping, path MTU, neighbour discovery. Advertisements and redirects are ignored by the bridge's own settings.
        when().having(PROTOCOL, ICMP).then(Accept),
        when().having(PROTOCOL, ICMPV6).then(Accept),
        to_gateway4().having(PROTOCOL, TCP).having(PORT_TO, DNS).then(Accept),
        to_gateway6().having(PROTOCOL, TCP).having(PORT_TO, DNS).then(Accept),
        always(Drop),
    ]
}

/// The table of family `bridge`: frames that come in by a port, before the bridge learns from them or passes them on.
pub(super) fn bridged() -> Vec<Chain> {
    use Verdict::{Accept, Drop, Goto, Jump};
    let prerouting = vec![
        when().within(&[IN], Set::Guarded).then(Goto("guarded")),
        when().within(&[IN], Set::Spoofing).then(Goto("spoofing")),
    ];
    let guarded = vec![
        when().outside(&[IN, ETHER_FROM], Set::Macs).then(Drop),
        always(Jump("infrastructure")),
        always(Jump("questions")),
        when().having(ETHER_TYPE, TYPE_IPV4).then(Goto("ipv4")),
        when().having(ETHER_TYPE, TYPE_IPV6).then(Goto("ipv6")),
        when().having(ETHER_TYPE, &[0x08, 0x06]).then(Goto("arp")),
        // Everything else, like tagged frames and spanning tree.
        always(Drop),
    ];
    let spoofing = vec![
        always(Jump("infrastructure")),
        always(Jump("questions")),
        when().having(ETHER_TYPE, &[0x81, 0x00]).then(Drop),
        when().having(ETHER_TYPE, &[0x88, 0xa8]).then(Drop),
    ];
    let ipv4 = vec![
        when().within(&[IN, IP4_FROM], Set::Sources4).then(Accept),
        when().having(IP4_FROM, &[0; 4]).having(PROTOCOL, UDP).having(PORT_TO, DHCP4_SERVER).then(Accept),
        always(Drop),
    ];
    let arp = vec![
        // Ethernet, IPv4, addresses of 6 and 4 bytes: otherwise the offsets below would mean something else.
        when().not_having(ARP_FORMAT, &[0, 1, 8, 0, 6, 4]).then(Drop),
        when().outside(&[IN, ARP_SENDER_MAC], Set::Macs).then(Drop),
        when().within(&[IN, ARP_SENDER_IP], Set::Sources4).then(Accept),
        // A probe whether an address is free (RFC 5227).
        when().having(ARP_SENDER_IP, &[0; 4]).then(Accept),
        always(Drop),
    ];
    let unspecified =
        |kind| when().having(IP6_FROM, &[0; 16]).having(PROTOCOL, ICMPV6).having(ICMP_TYPE, &[kind]).then(Accept);
    let ipv6 = vec![
        icmpv6(NEIGHBOUR_ADVERTISEMENT).outside(&[IN, ND_TARGET], Set::Sources6).then(Drop),
        when().within(&[IN, IP6_FROM], Set::Sources6).then(Accept),
        // Before it has an address, a guest probes whether it is free and joins groups (RFC 4862, RFC 3810).
        unspecified(NEIGHBOUR_SOLICITATION),
        unspecified(ROUTER_SOLICITATION),
        unspecified(MLD2_REPORT),
        unspecified(MLD_REPORT),
        always(Drop),
    ];
    let hook = Some(Hook { kind: "filter", number: 0, priority: -200 });
    vec![
        chain("infrastructure", infrastructure()),
        chain("questions", questions()),
        chain("ipv4", ipv4),
        chain("arp", arp),
        chain("ipv6", ipv6),
        chain("guarded", guarded),
        chain("spoofing", spoofing),
        Chain { name: "prerouting", hook, rules: prerouting },
    ]
}

/// What only the network itself may send, from whatever address: answers of DHCP servers, router advertisements and
/// redirects, and frames to the addresses that bridges speak to each other on (spanning tree and others, IEEE 802.1D).
fn infrastructure() -> Vec<Rule> {
    use Verdict::Drop;
    vec![
        when().bits(ETHER_TO, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xf0], &[0x01, 0x80, 0xc2, 0, 0, 0]).then(Drop),
        when().having(PROTOCOL, UDP).having(PORT_FROM, DHCP4_SERVER).then(Drop),
        when().having(PROTOCOL, UDP).having(PORT_FROM, DHCP6_SERVER).then(Drop),
        icmpv6(ROUTER_ADVERTISEMENT).then(Drop),
        icmpv6(REDIRECT).then(Drop),
    ]
}

/// Floods of what the daemon would have to answer.
fn questions() -> Vec<Rule> {
    use Verdict::Drop;
    let names = || when().having(PROTOCOL, UDP).having(PORT_TO, DNS);
    vec![
        names().having(ETHER_TYPE, TYPE_IPV4).within(&[IP4_TO], Set::Servers4).too_often().then(Drop),
        names().having(ETHER_TYPE, TYPE_IPV6).within(&[IP6_TO], Set::Servers6).too_often().then(Drop),
        when().having(PROTOCOL, UDP).having(PORT_TO, DHCP4_SERVER).too_often().then(Drop),
        icmpv6(ROUTER_SOLICITATION).too_often().then(Drop),
    ]
}
