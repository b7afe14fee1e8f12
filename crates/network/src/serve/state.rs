//! What the loops of one gateway share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use model::Cidr;

use super::GatewayConfig;
use super::slots::Slots;
use crate::directory::Directory;
use crate::dns::Zone;

/// Questions that wait for a name server of the host: each takes a descriptor and about 6 KiB, so all of a network take
/// 1.5 MiB at most. At 50 ms per answer that is 5,000 names a second.
const MOST_QUESTIONS: u32 = 256;
/// Of them for one address. A guest that asks from its IPv4, IPv6 and link-local address has 96 and leaves room.
const MOST_QUESTIONS_EACH: u32 = 32;
/// Connections: each takes a descriptor and about 4 KiB.
const MOST_CONNECTIONS: u32 = 64;
const MOST_CONNECTIONS_EACH: u32 = 8;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: GatewayConfig,
    pub(super) directory: Arc<Directory>,
    pub(super) subnets: Vec<Cidr>,
    pub(super) questions: Arc<Slots>,
    pub(super) connections: Arc<Slots>,
    pub(super) counts: Counts,
    upstreams: RwLock<Arc<[SocketAddr]>>,
}

/// Numbers of what a gateway did since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// DHCP answers.
    pub dhcp: u64,
    /// Router advertisements that were asked for.
    pub advertisements: u64,
    /// DNS questions answered from the directory or refused.
    pub answered: u64,
    /// DNS questions that a name server of the host was asked.
    pub forwarded: u64,
    /// Questions that were not answered because the guest asks too often or too much is under way.
    pub limited: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) dhcp: AtomicU64,
    pub(super) advertisements: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) limited: AtomicU64,
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn new(config: GatewayConfig, directory: Arc<Directory>) -> Shared {
        let shared = Shared {
            subnets: config.ipv4.into_iter().chain(config.ipv6).collect(),
            questions: Slots::new(MOST_QUESTIONS, MOST_QUESTIONS_EACH),
            connections: Slots::new(MOST_CONNECTIONS, MOST_CONNECTIONS_EACH),
            counts: Counts::default(),
            upstreams: RwLock::new(Arc::from([])),
            config,
            directory,
        };
        shared.set_upstreams(&shared.config.upstreams);
        shared
    }

    /// Takes the name servers, but for ourselves: asking ourselves would never end.
    pub(super) fn set_upstreams(&self, upstreams: &[SocketAddr]) {
        let own = |server: &&SocketAddr| !self.subnets.iter().any(|subnet| subnet.address == server.ip());
        let servers: Vec<SocketAddr> = upstreams.iter().filter(own).copied().collect();
        *self.upstreams.write().unwrap_or_else(PoisonError::into_inner) = servers.into();
    }

    pub(super) fn upstreams(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.upstreams.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn zone(&self) -> Zone<'_> {
        Zone { domain: &self.config.domain, subnets: &self.subnets, directory: &self.directory }
    }

    pub(super) fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            dhcp: read(&self.counts.dhcp),
            advertisements: read(&self.counts.advertisements),
            answered: read(&self.counts.answered),
            forwarded: read(&self.counts.forwarded),
            limited: read(&self.counts.limited),
        }
    }
}
