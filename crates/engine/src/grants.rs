//! What an instance is given when its definition changes, and what of it is taken back.

use std::collections::BTreeMap;

use config::ShareChoice;
use model::{DeviceName, IdMap, InstanceId, NamespaceKind};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::record::{InstanceRecord, NicGrant, WishState};
use crate::shared::Shared;

impl Shared {
    /// Gives a changed definition what its NICs need, and checks it.
    pub(crate) fn regrant(&self, before: &InstanceRecord, wish: &mut WishState) -> Result<()> {
        let mut catalog = self.catalog_mut();
        let config = catalog.config(&before.project, wish)?;
        self.check_limits(&catalog, &config)?;
        if config.root.pool != before.pool {
            return Err(Error::Invalid("The pool of a root disk can't be changed; copy the instance instead".into()));
        }
        if (config.sandbox.nesting && wish.ids.count < IdMap::NESTING)
            || !config.sandbox.nesting && wish.ids.count > IdMap::ORDINARY
        {
            if wish.power.boot().is_some() {
                return Err(Error::Invalid(
                    "security.nesting changes the range of ids: stop the instance first".into(),
                ));
            }
            let count = if config.sandbox.nesting { IdMap::NESTING } else { IdMap::ORDINARY };
            wish.ids = catalog.allocator.ids(count)?;
        }
        let facts = self.host.facts();
        let after = InstanceRecord { wish: wish.clone(), ..before.clone() };
        let instances = self.instances();
        let checked = crate::sharing::check_change(&catalog, &instances, facts, before, wish, &config)
            .and_then(|()| crate::wires::check(&catalog, &instances, &after, &config))
            .and_then(|()| crate::chains::check(&catalog, &after, &config));
        drop(instances);
        match checked.and_then(|()| grant_nics(&mut catalog, &config, &wish.nics, before.id)) {
            Ok(grants) => wish.nics = grants,
            Err(error) => {
                if wish.ids != before.wish.ids {
                    catalog.allocator.forget_ids(wish.ids);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Checks a definition of which only limits changed.
    pub(crate) fn recheck(&self, before: &InstanceRecord, wish: &WishState) -> Result<()> {
        let catalog = self.catalog();
        self.check_limits(&catalog, &catalog.config(&before.project, wish)?)
    }

    /// Refuses limits that this host cannot keep.
    pub(crate) fn check_limits(&self, catalog: &Catalog, config: &config::InstanceConfig) -> Result<()> {
        let limits = &config.limits;
        plan::refuse_limits(limits, self.host.facts())?;
        plan::refuse_autoscale(&config.autoscale, limits, self.host.facts())?;
        plan::refuse_told(config.told, self.host.facts())?;
        for nic in &config.nics {
            plan::refuse_nic_limits(&nic.device, nic.limits, self.host.facts())?;
        }
        if config.idle_freeze_ms.is_some()
            && !matches!(config.grain.shares.get(&NamespaceKind::Net), None | Some(ShareChoice::Private))
        {
            let text = "idle.freeze: nobody can tell which packets are for an instance without a network of its own, so nothing would wake it: take this key or namespaces.net back";
            return Err(Error::Invalid(text.into()));
        }
        let pool = catalog.pools.get(&config.root.pool).filter(|pool| !pool.spec.source.is_empty());
        match pool {
            // Which disk that is was not looked for.
            Some(pool) if limits.disk_rates != Default::default() || limits.disk_latency_us.is_some() => {
                let text = format!("Storage pool {} is elsewhere: limits of its disk are not offered", pool.spec.name);
                Err(Error::Invalid(text))
            }
            _ => Ok(()),
        }
    }

    /// Takes back what was given out to an instance meanwhile, and is not its own in the end.
    pub(crate) fn take_back(&self, had: &[WishState], record: &InstanceRecord) {
        let mut catalog = self.catalog_mut();
        had.iter().for_each(|wish| catalog.allocator.forget_wish(wish));
        catalog.allocator.note(record);
    }
}

/// What each NIC of a definition was given, or is given now.
pub(crate) fn grant_nics(
    catalog: &mut Catalog,
    config: &config::InstanceConfig,
    had: &BTreeMap<DeviceName, NicGrant>,
    id: InstanceId,
) -> Result<BTreeMap<DeviceName, NicGrant>> {
    let mut grants: BTreeMap<DeviceName, NicGrant> = BTreeMap::new();
    for choice in &config.nics {
        let fits = |grant: &&NicGrant| {
            grant.network == choice.network
                && choice.mac.is_none_or(|mac| mac == grant.mac)
                && choice.ipv4.is_none_or(|a| grant.ipv4.map(Into::into) == Some(a))
                && choice.ipv6.is_none_or(|a| grant.ipv6.map(Into::into) == Some(a))
        };
        let granted = match had.get(&choice.device).filter(fits) {
            Some(grant) => Ok(grant.clone()),
            None => {
                let network = catalog.network(&choice.network)?.clone();
                catalog.allocator.nic(choice, &network, id)
            }
        };
        match granted {
            Ok(grant) => drop(grants.insert(choice.device.clone(), grant)),
            Err(error) => {
                // What was newly given goes back.
                for (device, grant) in &grants {
                    if had.get(device) != Some(grant) {
                        catalog.allocator.forget_grant(grant);
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(grants)
}
