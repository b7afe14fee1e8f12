//! Somebody flushes the firewall, deletes a bridge or a guest's link: the kernel tells, and it is put right at once; but
//! nobody is fought for ever.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::HostEvent;
use model::{Boot, NetworkSpec};
use network::watch::{Changes, Watch};
use network::{link, tunable};
use tokio::sync::mpsc;

use super::{Networks, damage};

/// Times within a minute that the same thing is put right. An administrator who tries things out stays below it; a program
/// that wants it another way does not, and its owner is told instead.
const TIMES: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);

/// Notices of a link that come so soon after one another are of one damage: it is told of at both of its ends, and again while
/// it is being put right.
const ONE: Duration = Duration::from_millis(50);

/// How long a watch that broke is left alone.
const AGAIN: Duration = Duration::from_secs(1);

impl Networks {
    /// Puts right what somebody breaks, for as long as the daemon lives. `is_running` tells whether a boot's guest runs: the
    /// links of others go by themselves.
    pub(crate) async fn follow(
        self: Arc<Self>,
        events: mpsc::Sender<HostEvent>,
        is_running: impl Fn(Boot) -> bool + Send + Sync + 'static,
    ) {
        let mut patience = Patience::default();
        loop {
            let own = self.state().firewall.as_ref().map_or(Ok(0), |socket| socket.port());
            match own.and_then(Watch::start) {
                Ok(mut watch) => {
                    // Whatever happened while nobody watched.
                    let mut changes = Changes { overrun: true, ..Changes::default() };
                    loop {
                        self.heal(&changes, &mut patience, &events, &is_running);
                        match watch.next().await {
                            Ok(next) => changes = next,
                            Err(error) => {
                                tracing::error!(%error, "changes of links and tables are not told any more");
                                break;
                            }
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "changes of links and tables cannot be watched"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn heal(
        &self,
        changes: &Changes,
        patience: &mut Patience,
        events: &mpsc::Sender<HostEvent>,
        is_running: &dyn Fn(Boot) -> bool,
    ) {
        let mut tell = |name: &str, what: String, put_right: &mut dyn FnMut() -> network::Result<()>| {
            let told = match patience.ask(name, Instant::now()) {
                Answer::Heal => match put_right() {
                    Ok(()) => HostEvent::NetworkHealed(name.to_owned(), what),
                    Err(error) => {
                        HostEvent::LeftBroken(name.to_owned(), format!("{what}; it cannot be put right: {error}"))
                    }
                },
                Answer::LastWords => HostEvent::LeftBroken(name.to_owned(), last_words(&what)),
                Answer::Silence => return,
            };
            let _ = events.try_send(told);
        };
        self.follow_functions(changes);
        for (spec, what) in self.broken_networks(changes) {
            tell(spec.name.as_str(), what.to_owned(), &mut || self.ensure(&spec));
        }
        if changes.overrun || changes.settings {
            let (ipv4, ipv6) = damage::forwarding(&self.state());
            for key in tunable::lost_forwarding(ipv4, ipv6) {
                tell("forwarding", format!("somebody switched off {key}"), &mut || self.forward(ipv4, ipv6));
            }
        }
        if (changes.overrun || changes.tables.contains(self.table.as_str()))
            && let Some(what) = self.broken_firewall()
        {
            tell("firewall", format!("{what}: somebody changed {}", self.table), &mut || self.guard_again());
        }
        for (boot, name, what) in self.broken_links(changes) {
            if !is_running(boot) {
                continue;
            }
            let what = format!("link {name} {what}");
            let told = match patience.ask_of_link(&name, Instant::now()) {
                Answer::Heal => HostEvent::LinkBroken(boot, what),
                Answer::LastWords => HostEvent::LeftBroken(name, last_words(&what)),
                Answer::Silence => continue,
            };
            let _ = events.try_send(told);
        }
    }

    fn broken_networks(&self, changes: &Changes) -> Vec<(NetworkSpec, &'static str)> {
        let mut state = self.state();
        let state = &mut *state;
        let mut found = Vec::new();
        for running in state.running.values() {
            let spec = &running.spec;
            if !(changes.overrun || changes.links.contains(spec.name.as_str())) {
                continue;
            }
            let Ok(name) = spec.name.as_str().parse() else { continue };
            let what = match link::find(&mut state.route, &name) {
                Ok(None) => "its bridge was deleted",
                Ok(Some(link)) if link.index != running.index => "its bridge was replaced",
                Ok(Some(link)) if !link.up => "its bridge was shut down",
                Ok(Some(_)) | Err(_) => continue,
            };
            found.push((spec.clone(), what));
        }
        for chain in state.chains.values() {
            let name = chain.spec.name.as_str();
            let Ok(link_name) = name.parse() else { continue };
            let what = match link::find(&mut state.route, &link_name) {
                _ if !(changes.overrun || changes.links.contains(name)) => continue,
                Ok(None) => "its uplink was deleted",
                Ok(Some(link)) if !link.up => "its uplink was shut down",
                Ok(Some(_)) | Err(_) => continue,
            };
            found.push((chain.spec.clone(), what));
        }
        found
    }

    /// A function's link came or went: frames find another way where that is wished.
    fn follow_functions(&self, changes: &Changes) {
        let mut state = self.state();
        let is_told = |name: &str| changes.overrun || changes.links.contains(name);
        let is_one = state.attached.iter().any(|(name, (_, nic))| nic.chained && is_told(name));
        if is_one && let Err(error) = self.repatch(&mut state) {
            tracing::error!(%error, "packets do not find their way around a function that is gone");
        }
    }

    fn broken_firewall(&self) -> Option<&'static str> {
        let mut state = self.state();
        let damage = self.damage_of(&mut state).unwrap_or_default();
        damage.or_else(|| self.damage_of_patches(&mut state).unwrap_or_default())
    }

    fn broken_links(&self, changes: &Changes) -> Vec<(Boot, String, &'static str)> {
        let mut state = self.state();
        let state = &mut *state;
        let bridges: Vec<u32> = state.running.values().map(|running| running.index).collect();
        let mut found = Vec::new();
        // Links lose their bridge without a word about them where it is deleted.
        let of_bridge = state.running.keys().any(|name| changes.links.contains(name.as_str()));
        for (name, (boot, nic)) in &state.attached {
            if !(changes.overrun || of_bridge || changes.links.contains(name)) {
                continue;
            }
            let what = match link::find(&mut state.route, &nic.host_name) {
                Ok(None) => Some("was deleted"),
                Ok(Some(link)) => damage::of_link(&link, &bridges, nic.chained),
                Err(_) => None,
            };
            found.extend(what.map(|what| (*boot, name.clone(), what)));
        }
        found
    }
}

fn last_words(what: &str) -> String {
    format!(
        "{what}, for the {}th time within a minute: it is left so; find out who does that, then sysctl-cli doctor --repair",
        TIMES + 1
    )
}

/// How often each thing was put right lately.
#[derive(Debug, Default)]
struct Patience(BTreeMap<String, VecDeque<Instant>>);

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is put right.
    Heal,
    /// It is left, and that is told.
    LastWords,
    /// It is left, as was told.
    Silence,
}

impl Patience {
    /// The same for a link, which others put right while more is told of it.
    fn ask_of_link(&mut self, name: &str, now: Instant) -> Answer {
        let times = self.0.get(name);
        let is_same = |times: &VecDeque<Instant>| {
            times.len() <= TIMES && times.back().is_some_and(|last| now.duration_since(*last) < ONE)
        };
        if times.is_some_and(is_same) { Answer::Heal } else { self.ask(name, now) }
    }

    fn ask(&mut self, name: &str, now: Instant) -> Answer {
        let is_recent = |at: &Instant| now.duration_since(*at) < WITHIN;
        // Bounded by what is broken within a minute.
        self.0.retain(|_, times| times.back().is_some_and(is_recent));
        let times = self.0.entry(name.to_owned()).or_default();
        while times.front().is_some_and(|at| !is_recent(at)) {
            times.pop_front();
        }
        if times.len() > TIMES {
            return Answer::Silence;
        }
        times.push_back(now);
        if times.len() > TIMES { Answer::LastWords } else { Answer::Heal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_again_and_again_is_left_after_five_times_a_minute() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut answers = |name: &str, seconds: u64| patience.ask(name, start + Duration::from_secs(seconds));
        for second in 0..5 {
            assert_eq!(answers("firewall", second), Answer::Heal);
        }
        assert_eq!(answers("firewall", 5), Answer::LastWords);
        assert_eq!(answers("firewall", 6), Answer::Silence);
        assert_eq!(answers("other", 6), Answer::Heal);
        // Each is forgotten after a minute.
        assert_eq!(answers("firewall", 61), Answer::Heal);
        assert_eq!(answers("firewall", 200), Answer::Heal);
    }

    #[test]
    fn a_link_that_is_told_of_twice_is_one_damage() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut answers = |ms: u64| patience.ask_of_link("veth", start + Duration::from_millis(ms));
        for round in 0..5 {
            assert_eq!([answers(1000 * round), answers(1000 * round + 1)], [Answer::Heal, Answer::Heal]);
        }
        assert_eq!([answers(5000), answers(5001)], [Answer::LastWords, Answer::Silence]);
    }
}
