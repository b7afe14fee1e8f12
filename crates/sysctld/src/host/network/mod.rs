//! Managed networks on this host: bridges, the firewall, the gateways that answer, and the links of guests.

mod chains;
mod damage;
mod heal;
mod wires;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::NameEntry;
use model::{Boot, Cidr, DeviceName, Mac, NetworkName, NetworkSpec, NicLimits, NicSeen, NicSpec, Plug};
use network::directory::{Directory, Host};
use network::link::{self, Alias, BridgeSpec, LinkName, VethSpec};
use network::netlink::Socket;
use network::nft::{self, NetworkRules, NicRules, TableName};
use network::serve::{Gateway, GatewayConfig};
use network::tunable;
use network::{Error, Result};
use sha2::{Digest, Sha256};

use super::keeper::GuestNetwork;
use chains::RunningChain;
pub(crate) use wires::wire_of;

/// Largest packet where nothing is said: that of Ethernet.
const MTU: u32 = 1500;

/// How long guests may rely on an address: an hour, as dnsmasq does; it is theirs for as long as they exist anyway.
const LEASE_S: u32 = 3600;

/// A link of a guest that is attached.
#[derive(Debug, Clone)]
pub(crate) struct AttachedNic {
    pub(super) host_name: LinkName,
    pub(super) alias: Alias,
    device: DeviceName,
    rules: NicRules,
    /// What it may send is known to the firewall.
    complete: bool,
    /// It is no port of a bridge, but has a part in a chain.
    pub(super) chained: bool,
    limits: NicLimits,
}

impl AttachedNic {
    pub(crate) fn seen(&self) -> NicSeen {
        let (host_name, mac) = (self.host_name.to_string(), Some(self.rules.mac));
        NicSeen { host_name, mac, complete: self.complete, wire: None, chained: self.chained, limits: self.limits }
    }

    /// The host's end, and whom it leads to.
    pub(super) fn callee(&self) -> (String, Mac) {
        (self.host_name.to_string(), self.rules.mac)
    }
}

pub(super) struct Running {
    spec: NetworkSpec,
    index: u32,
    rules: NetworkRules,
    directory: Arc<Directory>,
    known: BTreeMap<Mac, Host>,
    gateway: Option<Gateway>,
}

pub(super) struct State {
    route: Socket,
    /// `None` where the kernel has no nf_tables.
    firewall: Option<Socket>,
    running: HashMap<NetworkName, Running>,
    chains: BTreeMap<NetworkName, RunningChain>,
    nics: Vec<NicRules>,
    /// Links of guests by name: those that were attached, or found.
    attached: BTreeMap<String, (Boot, AttachedNic)>,
    /// Links that are being removed.
    leaving: BTreeSet<String>,
}

/// All networks.
pub(crate) struct Networks {
    table: TableName,
    /// What every alias of ours begins with.
    mark: String,
    /// The file that tells which settings of the host we changed.
    changes: PathBuf,
    state: Mutex<State>,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Networks {
    /// `mark` tells this daemon's objects from those of another on the same host.
    pub(crate) fn new(mark: &str, state_dir: &Path) -> Result<Networks> {
        let table: TableName = format!("sysctl-{mark}").parse()?;
        let mut firewall = Some(Socket::netfilter()?);
        let mut nics = Vec::new();
        if let Some(socket) = &mut firewall {
            match nft::probe(socket) {
                // Links of a former daemon stay guarded all the while.
                Ok(()) => nics = nft::contents(socket, &table).map(|contents| contents.nics).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, "no firewall: guests are not guarded against one another, and there is no NAT");
                    firewall = None;
                }
            }
        }
        let state = State {
            route: Socket::route()?,
            firewall,
            running: HashMap::new(),
            chains: BTreeMap::new(),
            nics,
            attached: BTreeMap::new(),
            leaving: BTreeSet::new(),
        };
        let changes = state_dir.join("host-settings");
        Ok(Networks { table, mark: format!("sysctl:{mark}:"), changes, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a network, or brings the one that is there to what it should be.
    pub(crate) fn ensure(&self, spec: &NetworkSpec) -> Result<()> {
        let name: LinkName = spec.name.as_str().parse()?;
        let mut state = self.state();
        let state = &mut *state;
        if let Some(chain) = &spec.chain {
            return self.ensure_chain(state, spec, chain);
        }
        let bridge = BridgeSpec {
            name: name.clone(),
            alias: format!("{}{}", self.mark, spec.name).parse()?,
            mac: bridge_mac(&self.mark, &spec.name),
            addresses: spec.ipv4.into_iter().chain(spec.ipv6).collect(),
            mtu: spec.mtu.unwrap_or(MTU),
        };
        let index = link::ensure_bridge(&mut state.route, &bridge)?;
        if spec.nat {
            self.forward(spec.ipv4.is_some(), spec.ipv6.is_some())?;
        }
        let is_same = |running: &Running| running.spec == *spec && running.index == index && running.is_whole();
        if state.running.get(&spec.name).is_some_and(is_same) {
            return match self.damage_of(state)? {
                Some(damage) => {
                    tracing::warn!(damage, "putting our part of the firewall back");
                    self.guard_all(state)
                }
                None => Ok(()),
            };
        }
        let rules = NetworkRules {
            bridge: name.clone(),
            gateway4: spec.ipv4.and_then(Cidr::ipv4),
            gateway6: spec.ipv6.and_then(Cidr::ipv6),
            nat4: spec.nat,
            nat6: spec.nat,
            host_open: false,
            isolated: false,
        };
        let old = state.running.remove(&spec.name);
        let (directory, known) = old.map_or_else(Default::default, |old| (old.directory, old.known));
        let config = gateway_config(spec, name, &bridge);
        let gateway = Gateway::start(index, config, directory.clone())?;
        for error in gateway.degraded() {
            tracing::warn!(network = %spec.name, %error, "degraded");
        }
        let running = Running { spec: spec.clone(), index, rules, directory, known, gateway: Some(gateway) };
        state.running.insert(spec.name.clone(), running);
        self.guard_all(state)
    }

    /// Puts all networks and links into the firewall at once.
    fn guard_all(&self, state: &mut State) -> Result<()> {
        let networks = state.rules();
        let Some(socket) = &mut state.firewall else { return Ok(()) };
        nft::replace(socket, &self.table, &networks, &state.nics)
    }

    fn damage_of(&self, state: &mut State) -> Result<Option<&'static str>> {
        let Some(socket) = &mut state.firewall else { return Ok(None) };
        if state.running.is_empty() {
            return Ok(None);
        }
        let found = match nft::contents(socket, &self.table) {
            Err(Error::NoTable { .. }) => return Ok(Some("its tables are gone")),
            other => other?,
        };
        Ok(damage::of_firewall(&found, &state.rules(), &state.nics))
    }

    /// Changes one link in the firewall; puts everything there again where somebody emptied it.
    fn guard(&self, state: &mut State, change: impl Fn(&mut Socket) -> Result<()>) -> Result<()> {
        let Some(socket) = &mut state.firewall else { return Ok(()) };
        match change(socket) {
            Err(Error::NoTable { .. }) => {
                tracing::warn!("somebody emptied the firewall; putting our part back");
                self.guard_all(state)
            }
            other => other,
        }
    }

    /// Removes a network.
    pub(crate) fn remove(&self, name: &NetworkName) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        if self.remove_chain(state, name)? {
            return Ok(());
        }
        let running = state.running.remove(name);
        if let (Some(running), Some(socket)) = (&running, &mut state.firewall) {
            nft::remove_network(socket, &self.table, &running.rules)?;
        }
        let link_name: LinkName = name.as_str().parse()?;
        match link::remove(&mut state.route, &link_name, &format!("{}{name}", self.mark).parse()?) {
            // Somebody else's is no network of ours.
            Err(Error::Taken { .. }) if running.is_none() => Ok(()),
            removed => removed,
        }
    }

    /// Links a guest to its network and gives it its addresses. A link that is new and fails is taken back.
    pub(crate) fn attach(&self, boot: Boot, nic: &NicSpec, guest: &mut GuestNetwork) -> Result<AttachedNic> {
        let host_name = link_name(boot, &nic.device)?;
        let alias: Alias = format!("{}{boot}:{}", self.mark, nic.device).parse()?;
        let rules = NicRules::of(host_name.clone(), nic);
        let mut state = self.state();
        let state = &mut *state;
        let is_new = !state.attached.contains_key(host_name.as_str());
        let attached = self.try_attach(state, boot, nic, guest, (&host_name, &alias, &rules));
        if attached.is_err() && is_new {
            let removed = link::remove(&mut state.route, &host_name, &alias);
            let removed = removed.or_else(|_| link::remove_unmarked(&mut state.route, &host_name));
            state.attached.remove(host_name.as_str());
            state.nics.retain(|known| known.port != host_name);
            let forgotten = self.guard(state, |socket| nft::forget_nic(socket, &self.table, &rules));
            if let Err(error) = removed.and(forgotten) {
                tracing::warn!(%boot, device = %nic.device, %error, "of a link that could not be made something is left");
            }
        }
        attached
    }

    fn try_attach(
        &self,
        state: &mut State,
        boot: Boot,
        nic: &NicSpec,
        guest: &mut GuestNetwork,
        (host_name, alias, rules): (&LinkName, &Alias, &NicRules),
    ) -> Result<AttachedNic> {
        let missing = |name: &dyn std::fmt::Display| Error::NoLink { name: name.to_string() };
        let (bridge, mtu) = match &nic.plug {
            Plug::Network(network) => {
                let running = state.running.get(network).ok_or_else(|| missing(network))?;
                (Some(running.index), nic.mtu.or(running.spec.mtu).unwrap_or(MTU))
            }
            Plug::Chain(chain) => {
                let running = state.chains.get(chain).ok_or_else(|| missing(chain))?;
                (None, nic.mtu.or(running.spec.mtu).unwrap_or(MTU))
            }
            Plug::Wire(_) => return Err(missing(&nic.device)),
        };
        // Before the link is there, so that no frame of it is ever unguarded.
        state.nics.retain(|known| known.port != *host_name);
        state.nics.push(rules.clone());
        self.guard(state, |socket| nft::allow_nic(socket, &self.table, rules))?;
        let veth = VethSpec {
            host_name: host_name.clone(),
            alias: alias.clone(),
            bridge,
            guest_netns: guest.namespace.as_fd(),
            guest_name: nic.guest_name.parse()?,
            mac: nic.mac,
            mtu,
            learns: nic.spoofing,
            isolated: false,
        };
        let (device, chained) = (nic.device.clone(), nic.is_chained());
        let limits = nic.limits;
        let attached = AttachedNic {
            host_name: host_name.clone(),
            alias: alias.clone(),
            device,
            rules: rules.clone(),
            complete: true,
            chained,
            limits,
        };
        let former = state.attached.get(host_name.as_str()).map(|(_, former)| (former.chained, former.limits));
        let was_chained = former.map(|(chained, _)| chained);
        if was_chained == Some(false) && chained {
            // It moves: its frames find their way before it leaves the bridge.
            state.attached.insert(host_name.to_string(), (boot, attached.clone()));
            self.repatch(state)?;
        }
        let index = link::attach_veth(&mut state.route, &veth)?;
        // Before it is known as attached: what fails is tried again. A link that was made anew has none yet, so that those
        // which are as they were are set as well.
        let is_free = |limits: NicLimits| limits == NicLimits::default();
        if former.is_some_and(|(_, limits)| !is_free(limits)) || !is_free(nic.limits) {
            link::put_limits(&mut state.route, index, &nic.limits)?;
        }
        link::configure_guest(&mut guest.socket, nic)?;
        link::settle(&mut state.route, host_name)?;
        state.attached.insert(host_name.to_string(), (boot, attached.clone()));
        match (was_chained, chained) {
            (_, true) => self.repatch(state)?,
            (Some(true), false) => self.unpatch(state, host_name)?,
            (Some(false) | None, false) => {}
        }
        Ok(attached)
    }

    /// Takes a link away. Of a guest that is gone the kernel takes it itself, and we only see to it.
    pub(crate) async fn detach(self: &Arc<Self>, nic: AttachedNic, running: bool) -> Result<()> {
        {
            let mut state = self.state();
            let state = &mut *state;
            state.nics.retain(|known| known.port != nic.host_name);
            state.attached.remove(nic.host_name.as_str());
            state.leaving.insert(nic.host_name.to_string());
            self.guard(state, |socket| nft::forget_nic(socket, &self.table, &nic.rules))?;
            if nic.chained {
                self.repatch(state)?;
            }
        }
        let networks = self.clone();
        // Removing a link waits for a grace period of the kernel, some 20 ms.
        let removal = tokio::task::spawn_blocking(move || {
            let removed = Socket::route().and_then(|mut socket| link::remove(&mut socket, &nic.host_name, &nic.alias));
            networks.state().leaving.remove(nic.host_name.as_str());
            removed
        });
        if !running {
            return Ok(());
        }
        removal.await.unwrap_or_else(|_| Err(Error::NoLink { name: String::new() }))
    }

    /// Links of guests that are there, by what is written on them. The firewall forgets those that are gone: their guests
    /// ended while no daemon was there.
    pub(crate) fn attached(&self) -> Result<BTreeMap<Boot, BTreeMap<DeviceName, AttachedNic>>> {
        let mut found: BTreeMap<Boot, BTreeMap<DeviceName, AttachedNic>> = BTreeMap::new();
        let mut state = self.state();
        let state = &mut *state;
        let links = link::list(&mut state.route)?;
        let limits = link::limits(&mut state.route)?;
        let is_marked = |link: &&link::Link| link.alias.as_ref().is_some_and(|alias| alias.starts_with(&self.mark));
        let marked: BTreeSet<&str> = links.iter().filter(is_marked).map(|link| link.name.as_str()).collect();
        let is_there = |nic: &NicRules| marked.contains(nic.port.as_str());
        let (kept, gone): (Vec<NicRules>, Vec<NicRules>) = state.nics.drain(..).partition(is_there);
        state.nics = kept;
        for nic in gone {
            // A link is marked by the call after the one that makes it: a daemon may have died in between.
            link::remove_unmarked(&mut state.route, &nic.port)?;
            self.guard(state, |socket| nft::forget_nic(socket, &self.table, &nic))?;
        }
        for link in links {
            let Some(alias) = &link.alias else { continue };
            let Some((boot, device)) = alias.strip_prefix(&self.mark).and_then(|rest| rest.split_once(':')) else {
                continue;
            };
            let (Ok(boot), Ok(device)) = (boot.parse::<Boot>(), device.parse::<DeviceName>()) else { continue };
            let host_name: LinkName = link.name.as_str().parse()?;
            let guarded = state.nics.iter().find(|nic| nic.port == host_name).cloned();
            let complete = guarded.is_some() || state.firewall.is_none();
            let unknown = || NicRules {
                port: host_name.clone(),
                mac: link.mac.unwrap_or(Mac([0; 6])),
                ipv4: None,
                ipv6: None,
                spoofing: true,
            };
            let rules = guarded.unwrap_or_else(unknown);
            let (alias, chained) = (alias.parse()?, link.master.is_none());
            let host_name = host_name.clone();
            let limits = limits.get(&link.index).copied().unwrap_or_default();
            let nic = AttachedNic { host_name, alias, device: device.clone(), rules, complete, chained, limits };
            state.attached.insert(nic.host_name.to_string(), (boot, nic.clone()));
            found.entry(boot).or_default().insert(device, nic);
        }
        Ok(found)
    }

    /// Ends what answers the guests. The daemon is about to end, too: its successor answers again.
    pub(crate) fn stop_gateways(&self) {
        for running in self.state().running.values_mut() {
            running.gateway = None;
        }
    }

    /// Tells the gateways who is there.
    pub(crate) fn set_names(&self, names: &[NameEntry]) {
        let mut state = self.state();
        for running in state.running.values_mut() {
            let of_network = names.iter().filter(|entry| entry.network == running.spec.name);
            let wanted: BTreeMap<Mac, Host> = of_network
                .map(|e| (e.mac, Host { name: e.name.clone(), mac: e.mac, ipv4: e.ipv4, ipv6: e.ipv6 }))
                .collect();
            for mac in running.known.keys().filter(|mac| !wanted.contains_key(*mac)) {
                running.directory.remove(*mac);
            }
            for (mac, host) in &wanted {
                if running.known.get(mac) != Some(host) {
                    running.directory.insert(host.clone());
                }
            }
            running.known = wanted;
        }
    }

    /// Whether a link of a running guest is there and as it was made.
    pub(crate) fn is_whole(&self, nic: &AttachedNic) -> bool {
        let mut state = self.state();
        let bridges: Vec<u32> = state.running.values().map(|running| running.index).collect();
        match link::find(&mut state.route, &nic.host_name) {
            Ok(link) => link.is_some_and(|link| damage::of_link(&link, &bridges, nic.chained).is_none()),
            // What cannot be looked at is not known to be wrong.
            Err(_) => true,
        }
    }

    /// Puts our part of the firewall where somebody changed it.
    pub(crate) fn guard_again(&self) -> Result<()> {
        let mut state = self.state();
        self.guard_all(&mut state)?;
        self.repatch(&mut state)
    }

    /// Names of bridges and uplinks of ours.
    pub(crate) fn found(&self) -> Result<Vec<NetworkName>> {
        let links = link::list(&mut self.state().route)?;
        let rest = links.iter().filter_map(|link| link.alias.as_deref()?.strip_prefix(&self.mark));
        Ok(rest.filter_map(|rest| rest.parse().ok()).collect())
    }

    /// Removes a link that carries our mark.
    pub(crate) fn remove_link(&self, name: &str) -> Result<()> {
        let name: LinkName = name.parse()?;
        let mut state = self.state();
        match link::find(&mut state.route, &name)?.and_then(|link| link.alias) {
            Some(alias) if alias.starts_with(&self.mark) => link::remove(&mut state.route, &name, &alias.parse()?),
            _ => Ok(()),
        }
    }

    /// All links of the host with their addresses, for the API.
    pub(crate) fn links(&self) -> Result<(Vec<link::Link>, Vec<link::Address>)> {
        let mut state = self.state();
        let mut links = link::list(&mut state.route)?;
        // The far end of an uplink is nobody's.
        links.retain(|link| !state.chains.values().any(|chain| chain.is_inner(&link.name)));
        Ok((links, link::addresses(&mut state.route, None)?))
    }

    /// Removes everything of ours from the firewall, and gives the host its settings back.
    pub(crate) fn leave(&self) -> Result<()> {
        if let Some(socket) = &mut self.state().firewall {
            nft::remove_table(socket, &self.table)?;
            nft::remove_patches(socket, &self.table)?;
        }
        let mut failures = tunable::restore(&tunable::read_notes(&self.changes));
        failures.pop().map_or(Ok(()), Err)
    }

    /// Lets the host forward packets.
    fn forward(&self, ipv4: bool, ipv6: bool) -> Result<()> {
        self.note_changes(tunable::ensure_forwarding(ipv4, ipv6)?);
        Ok(())
    }

    /// Settings of the host that we changed are told, so that whoever wonders finds them, and kept until we leave.
    fn note_changes(&self, new: Vec<tunable::Changed>) {
        for change in &new {
            tracing::info!(key = %change.key, old = %change.old, new = %change.new, "changed a setting of the host");
        }
        if let Err(error) = tunable::add_notes(&self.changes, &new) {
            tracing::warn!(path = %self.changes.display(), %error, "what was changed on the host could not be noted");
        }
    }
}

impl State {
    fn rules(&self) -> Vec<NetworkRules> {
        self.running.values().map(|running| running.rules.clone()).collect()
    }
}

impl Running {
    fn is_whole(&self) -> bool {
        self.gateway.as_ref().is_some_and(Gateway::is_running)
    }
}

fn gateway_config(spec: &NetworkSpec, bridge: LinkName, made: &BridgeSpec) -> GatewayConfig {
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let upstreams = network::resolv::name_servers(&resolv, |_| None);
    GatewayConfig {
        bridge,
        mac: made.mac,
        mtu: made.mtu,
        ipv4: spec.ipv4,
        ipv6: spec.ipv6,
        domain: spec.domain.parse().unwrap_or_else(|_| {
            // Checked when the network was made.
            unreachable!("a valid domain")
        }),
        dhcp: spec.ipv4.is_some(),
        advertise: spec.ipv6.is_some(),
        // By SLAAC guests make the very address that the engine gives to a NIC in a /64.
        autonomous: spec.ipv6.is_some_and(|cidr| cidr.prefix == 64),
        dns: true,
        lease_s: LEASE_S,
        upstreams,
    }
}

/// The same for a network each time it is made: guests remember it.
fn bridge_mac(mark: &str, name: &NetworkName) -> Mac {
    let digest = Sha256::digest(format!("{mark}{name}"));
    let [a, b, c] = Mac::PREFIX;
    Mac([a, b, c, digest[0], digest[1], digest[2]])
}

/// Name of the host's end: of the ids, at most 15 characters.
pub(crate) fn link_name(boot: Boot, device: &DeviceName) -> Result<LinkName> {
    let digest = Sha256::digest(format!("{boot}:{device}"));
    let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sv{hex}").parse()
}
