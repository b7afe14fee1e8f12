//! What is seen of an instance or object, in words.

use engine::InstanceStatus;
use model::{Fingerprint, IdMap, Knob, ProjectName, Setting};

use crate::lab::{self, BUILT, Daemon, UPLOADED};
use crate::rows::Row;

impl Daemon {
    /// How things are, in the words of [`Row::facts`].
    pub(crate) fn seen(&self, row: Row) -> String {
        match row {
            Row::Import | Row::ImportNamed | Row::ChangeImage | Row::DeleteImage => self.image(UPLOADED),
            Row::Build => match self.engine.images().iter().any(|image| image.pools.is_empty()) {
                true => "built".into(),
                false => self.image(BUILT),
            },
            Row::CreateAlias | Row::ChangeAlias | Row::DeleteAlias => match self.engine.alias("mine") {
                Ok(alias) if alias.description.is_empty() => "mine".into(),
                Ok(alias) => format!("mine: {}", alias.description),
                Err(_) => String::new(),
            },
            Row::CreateProfile | Row::DeleteProfile => {
                self.engine.profile(&ProjectName::default(), "mine").map(|p| p.name.to_string()).unwrap_or_default()
            }
            Row::ChangeProfile => {
                let profile = self.engine.profile(&ProjectName::default(), "mine").expect("mine");
                let wished = profile.written.config.contains_key("limits.processes");
                let is = self.instance(row, "web1").contains("limited");
                assert_eq!(wished, is, "the profile and the group of who uses it");
                format!("mine, {}limited", if is { "" } else { "not " })
            }
            Row::Purge => {
                let world = self.host.world();
                let left = [
                    world.roots.len(),
                    world.boots.len(),
                    world.images.len(),
                    world.layers.len(),
                    world.networks.len(),
                    world.pins.len(),
                ];
                if left == [0; 6] { "nothing".into() } else { "something".into() }
            }
            _ if row.is_of_objects() => lab::objects(&self.engine),
            _ if row.is_owners() => format!("{}, side {}", self.instance(row, "web1"), self.instance(row, "side")),
            _ => self.instance(row, "web1"),
        }
    }

    fn image(&self, fingerprint: Fingerprint) -> String {
        let Some(image) = self.engine.images().into_iter().find(|i| i.facts.fingerprint == fingerprint) else {
            return "absent".into();
        };
        let named = if self.engine.alias("mine").is_ok() { " named" } else { "" };
        let changed = if image.properties.get("os").is_some_and(|os| os == "changed") { " changed" } else { "" };
        format!("there{named}{changed}")
    }

    fn instance(&self, row: Row, name: &str) -> String {
        let Ok(view) = self.engine.instance(&ProjectName::default(), name) else { return "none".into() };
        let mut words = match view.status() {
            InstanceStatus::Stopped => "stopped",
            InstanceStatus::Running => "running",
            InstanceStatus::Frozen => "frozen",
            InstanceStatus::Starting => "starting",
            InstanceStatus::Stopping => "stopping",
            InstanceStatus::Error => "error",
        }
        .to_owned();
        let wish = &view.record.wish;
        let restarts = [Row::GuestReboot, Row::RestartClean, Row::RestartForce, Row::RestartFrozen, Row::OwnerReboots];
        let is_restart = restarts.contains(&row) || matches!(row, Row::RestartPersisting | Row::RestartWired);
        let is_chained = view.seen().is_some_and(|seen| seen.nics.values().any(|nic| nic.chained));
        let is_filtered =
            self.host.world().networks.values().filter_map(|network| network.chain.as_ref()).any(|chain| {
                let peer = self.record("peer").and_then(|peer| self.engine.instance(&peer.project, "peer").ok());
                let has_links = peer.is_some_and(|peer| peer.seen().is_some_and(|seen| seen.nics.len() == 3));
                has_links && chain.hops.iter().any(|hop| !hop.bypassed)
            });
        let is_wired = view.seen().is_some_and(|seen| seen.nics.values().any(|nic| nic.wire.is_some()));
        let limited = match wish.power.boot().and_then(|boot| view.observed.boots.get(&boot)?.group.as_ref()) {
            Some(group) => group.settings.get(&Knob::PidsMax) == Some(&Setting::Number(99)),
            None => wish.written.config.contains_key("limits.processes"),
        };
        let group = wish.power.boot().and_then(|boot| view.observed.boots.get(&boot)?.group.as_ref());
        let high = group.and_then(|group| group.settings.get(&Knob::MemoryHigh));
        for (holds, word) in [
            (high == Some(&Setting::Number(125 << 20)), " scaled"),
            (group.is_some_and(|group| group.frozen && !wish.power.is_frozen()), " asleep"),
            (limited, " limited"),
            (wish.nics.is_empty() && name == "web1", " bare"),
            (row == Row::Join && wish.power.boot().is_some() && !view.record.joined.is_empty(), " joined"),
            (is_wired, " wired"),
            (is_chained, " chained"),
            (row.is_of_chain() && is_filtered, " filtered"),
            (wish.ids.count == IdMap::NESTING, " nesting"),
            (name == "web1" && self.host.world().pins.keys().any(|pin| pin.of == view.record.id.0), " persisting"),
            (is_restart && wish.power.boot().is_some_and(|boot| boot.0 > 1), " again"),
        ] {
            words.push_str(if holds { word } else { "" });
        }
        words
    }
}
