//! The rows of the crash table: what is asked, in which state, and what it leads to.

use std::cell::Cell;

use config::Written;
use engine::{
    Alias, ImageWish, InstanceStatus, NamespaceChange, NewInstance, OperationView, Patch, ProfileRecord, Update, Verb,
};
use model::{End, Fingerprint, IdMap, Knob, NamespaceKind, ProjectName, Setting, StopKind};
use uuid::Uuid;

use crate::lab::{self, BUILT, Daemon, UPLOADED, new_instance};

/// A row of the crash table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Create,
    Launch,
    LaunchUnbuilt,
    Start,
    StopClean,
    StopStubborn,
    StopForce,
    StopEphemeral,
    RestartClean,
    RestartForce,
    RestartFrozen,
    Freeze,
    Thaw,
    StopFrozen,
    Limits,
    LimitsStopped,
    LimitsAtOnce,
    LimitsAtOnceStopped,
    Scale,
    Sleep,
    Wake,
    RemoveNic,
    AddNic,
    Nesting,
    Delete,
    GuestReboot,
    GuestHalt,
    GuestDies,
    GuestEphemeral,
    Join,
    OwnerStops,
    OwnerHalts,
    OwnerReboots,
    Import,
    ImportNamed,
    Build,
    ChangeImage,
    DeleteImage,
    CreateAlias,
    ChangeAlias,
    DeleteAlias,
    CreateProfile,
    ChangeProfile,
    DeleteProfile,
    CreateUsers,
    CreateNetwork,
    AdoptNetwork,
    ChangeNetwork,
    DeleteNetwork,
    CollectNamespaces,
    LiveInObjects,
    Persist,
    RestartPersisting,
    DeletePersisting,
    Repair,
    Purge,
    Halt,
}

/// The crash table. `cargo xtask tidy` fails when a step, a verb or a public function that changes something is in no row.
pub(crate) const ROWS: [Row; 57] = [
    Row::Create,
    Row::Launch,
    Row::LaunchUnbuilt,
    Row::Start,
    Row::StopClean,
    Row::StopStubborn,
    Row::StopForce,
    Row::StopEphemeral,
    Row::RestartClean,
    Row::RestartForce,
    Row::RestartFrozen,
    Row::Freeze,
    Row::Thaw,
    Row::StopFrozen,
    Row::Limits,
    Row::LimitsStopped,
    Row::LimitsAtOnce,
    Row::LimitsAtOnceStopped,
    Row::Scale,
    Row::Sleep,
    Row::Wake,
    Row::RemoveNic,
    Row::AddNic,
    Row::Nesting,
    Row::Delete,
    Row::GuestReboot,
    Row::GuestHalt,
    Row::GuestDies,
    Row::GuestEphemeral,
    Row::Join,
    Row::OwnerStops,
    Row::OwnerHalts,
    Row::OwnerReboots,
    Row::Import,
    Row::ImportNamed,
    Row::Build,
    Row::ChangeImage,
    Row::DeleteImage,
    Row::CreateAlias,
    Row::ChangeAlias,
    Row::DeleteAlias,
    Row::CreateProfile,
    Row::ChangeProfile,
    Row::DeleteProfile,
    Row::CreateUsers,
    Row::CreateNetwork,
    Row::AdoptNetwork,
    Row::ChangeNetwork,
    Row::DeleteNetwork,
    Row::CollectNamespaces,
    Row::LiveInObjects,
    Row::Persist,
    Row::RestartPersisting,
    Row::DeletePersisting,
    Row::Repair,
    Row::Purge,
    Row::Halt,
];

/// Steps that the rows take, each with every fault. `cargo xtask tidy` fails when a step of `model::Step` is not among them.
pub(crate) const STEPS: [&str; 24] = [
    "adopt_image",
    "attach_nic",
    "build_image",
    "create_group",
    "create_root",
    "detach_nic",
    "discard_root",
    "ensure_network",
    "ensure_pool",
    "freeze",
    "halt",
    "kill",
    "pin_namespace",
    "release_keeper",
    "remove_group",
    "remove_image",
    "remove_layer",
    "remove_network",
    "set_limits",
    "spawn",
    "start",
    "thaw",
    "unpack_layer",
    "unpin_namespace",
];

/// What a row leads to, in the words of [`Daemon::seen`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
    /// What a failure may lead to beside the state before: README, "What happens when…".
    pub(crate) also: &'static [&'static str],
    /// What is told once it is done, and of what.
    pub(crate) told: Option<(&'static str, &'static str)>,
}

const CLEAN: StopKind = StopKind::Clean { timeout_s: 5 };

impl Row {
    pub(crate) fn facts(self) -> Facts {
        let facts = |before, after, action| Facts { before, after, also: &[], told: Some((action, "web1")) };
        let quiet = |before, after| Facts { before, after, also: &[], told: None };
        let restart = |before| Facts { also: &["stopped"], ..facts(before, "running again", "instance-restarted") };
        match self {
            Row::Create => facts("none", "stopped", "instance-created"),
            Row::Launch | Row::LaunchUnbuilt => {
                Facts { also: &["stopped"], ..facts("none", "running", "instance-started") }
            }
            Row::Start => facts("stopped", "running", "instance-started"),
            Row::StopClean | Row::StopStubborn => facts("running", "stopped", "instance-shutdown"),
            Row::StopForce => facts("running", "stopped", "instance-stopped"),
            Row::StopEphemeral => facts("running", "none", "instance-shutdown"),
            Row::RestartClean | Row::RestartForce => restart("running"),
            Row::RestartFrozen => restart("frozen"),
            Row::Freeze => facts("running", "frozen", "instance-paused"),
            Row::Thaw => facts("frozen", "running", "instance-resumed"),
            Row::StopFrozen => facts("frozen", "stopped", "instance-shutdown"),
            Row::Limits | Row::LimitsAtOnce => facts("running", "running limited", "instance-updated"),
            Row::LimitsStopped | Row::LimitsAtOnceStopped => facts("stopped", "stopped limited", "instance-updated"),
            Row::Scale => facts("running", "running scaled", "instance-scaled"),
            // The next daemon lets it go on, so that it may be told of both.
            Row::Sleep => quiet("running", "running asleep"),
            Row::Wake => quiet("running asleep", "running"),
            Row::RemoveNic => facts("running", "running bare", "instance-updated"),
            Row::AddNic => facts("running bare", "running", "instance-updated"),
            Row::Nesting => facts("stopped", "stopped nesting", "instance-updated"),
            Row::Delete => facts("stopped", "none", "instance-deleted"),
            Row::GuestReboot => facts("running", "running again", "instance-restarted"),
            Row::GuestHalt => facts("running", "stopped", "instance-shutdown"),
            Row::GuestDies => facts("running", "stopped", "instance-stopped"),
            Row::GuestEphemeral => facts("running", "none", "instance-shutdown"),
            Row::Join => Facts { also: &["stopped bare"], ..facts("none", "running bare joined", "instance-started") },
            // Who stops with it stops first.
            Row::OwnerStops => {
                let also = &["running, side stopped"];
                Facts { also, ..facts("running, side running", "stopped, side stopped", "instance-shutdown") }
            }
            Row::OwnerHalts => facts("running, side running", "stopped, side stopped", "instance-shutdown"),
            Row::OwnerReboots => {
                facts("running, side running", "running again, side running again", "instance-restarted")
            }
            Row::Import => quiet("absent", "there"),
            Row::ImportNamed => quiet("absent", "there named"),
            // It is unpacked when it is next needed.
            Row::Build => Facts { also: &["built"], ..quiet("absent", "there") },
            Row::ChangeImage => quiet("there", "there changed"),
            Row::DeleteImage => quiet("there named", "absent"),
            Row::CreateAlias => quiet("", "mine"),
            Row::ChangeAlias => quiet("mine", "mine: changed"),
            Row::DeleteAlias => quiet("mine", ""),
            Row::CreateProfile => quiet("", "mine"),
            Row::ChangeProfile => quiet("mine, not limited", "mine, limited"),
            Row::DeleteProfile => quiet("mine", ""),
            Row::CreateUsers => quiet("", "user/team"),
            Row::CreateNetwork => quiet("user/team", "net/blue at /run/netns, user/team"),
            Row::AdoptNetwork => quiet("", "net/blue"),
            Row::ChangeNetwork => quiet("net/blue, user/team", "net/blue at /run/netns, user/team"),
            Row::DeleteNetwork => quiet("net/blue, user/team", "user/team"),
            Row::CollectNamespaces => quiet("net/blue, user/team", ""),
            Row::LiveInObjects => {
                Facts { also: &["stopped bare"], ..facts("none", "running bare", "instance-started") }
            }
            // Its network stays with the instance, which was made all the same.
            Row::Persist => {
                let also = &["stopped", "stopped persisting"];
                Facts { also, ..facts("none", "running persisting", "instance-started") }
            }
            Row::RestartPersisting => Facts {
                also: &["stopped persisting"],
                ..facts("running persisting", "running persisting again", "instance-restarted")
            },
            Row::DeletePersisting => facts("stopped persisting", "none", "instance-deleted"),
            Row::Repair => quiet("running", "running"),
            Row::Purge => Facts { also: &["something"], ..quiet("something", "nothing") },
            Row::Halt => quiet("running", "running"),
        }
    }

    /// The guest does it by itself: nobody is promised anything.
    pub(crate) fn is_guests(self) -> bool {
        let ends = matches!(self, Row::GuestReboot | Row::GuestHalt | Row::GuestDies | Row::GuestEphemeral);
        ends || matches!(self, Row::OwnerHalts | Row::OwnerReboots | Row::Scale | Row::Sleep | Row::Wake)
    }

    /// It is about the namespaces of web1, which another instance, side, lives in.
    pub(crate) fn is_owners(self) -> bool {
        matches!(self, Row::OwnerStops | Row::OwnerHalts | Row::OwnerReboots)
    }

    /// It is one operation, which says how it ended.
    pub(crate) fn is_task(self) -> bool {
        let image = matches!(self, Row::Import | Row::ImportNamed | Row::Build | Row::DeleteImage);
        let at_once = matches!(self, Row::LimitsAtOnce | Row::LimitsAtOnceStopped);
        image || self.facts().told.is_some() && !self.is_guests() && !at_once
    }

    /// It is about namespace objects.
    fn is_of_objects(self) -> bool {
        let made = matches!(self, Row::CreateUsers | Row::CreateNetwork | Row::AdoptNetwork | Row::ChangeNetwork);
        made || matches!(self, Row::DeleteNetwork | Row::CollectNamespaces)
    }

    /// It is about everything: there can be no bystander.
    fn is_about_all(self) -> bool {
        matches!(self, Row::LaunchUnbuilt | Row::Build | Row::Purge | Row::Halt)
    }
}

impl Daemon {
    /// Brings the world to the state before the row, without faults.
    pub(crate) async fn set_up(&self, row: Row) {
        if !row.is_about_all() {
            self.must(self.engine.create(new_instance("other", true), None).await).await;
        }
        match row {
            Row::Join => {}
            Row::Create | Row::Launch | Row::LaunchUnbuilt | Row::Import | Row::ImportNamed | Row::Build => {}
            Row::ChangeImage | Row::CreateAlias | Row::ChangeAlias | Row::DeleteAlias | Row::DeleteImage => {
                let named = matches!(row, Row::ChangeAlias | Row::DeleteAlias | Row::DeleteImage);
                self.must(self.import(named).await).await;
            }
            Row::CreateProfile | Row::CreateUsers | Row::AdoptNetwork | Row::Persist => {}
            Row::RestartPersisting | Row::DeletePersisting => {
                self.must(self.engine.create(persisting("web1"), None).await).await;
                if row == Row::DeletePersisting {
                    self.must(self.verb(Verb::Stop(CLEAN)).await).await;
                }
            }
            Row::CreateNetwork => self.make_objects(false).await,
            Row::ChangeNetwork | Row::DeleteNetwork | Row::CollectNamespaces | Row::LiveInObjects => {
                self.make_objects(true).await;
            }
            Row::DeleteProfile => self.engine.create_profile(profile(None)).await.expect("profile"),
            Row::ChangeProfile => {
                self.engine.create_profile(profile(None)).await.expect("profile");
                let profiles = ["default", "mine"].map(|name| name.parse().expect("name"));
                let new = NewInstance { profiles: Some(profiles.into()), ..new_instance("web1", true) };
                self.must(self.engine.create(new, None).await).await;
            }
            _ => self.set_up_instance(row).await,
        }
        self.rest().await;
        assert_eq!(self.seen(row), row.facts().before, "set up of {row:?}");
    }

    async fn set_up_instance(&self, row: Row) {
        let start = !matches!(row.facts().before, "stopped");
        let ephemeral = matches!(row, Row::StopEphemeral | Row::GuestEphemeral);
        let new = NewInstance { ephemeral, ..new_instance("web1", start) };
        self.must(self.engine.create(new, None).await).await;
        if row.facts().before == "frozen" {
            self.must(self.verb(Verb::Freeze).await).await;
        }
        if row == Row::AddNic {
            self.must(self.verb(nic(false)).await).await;
        }
        if row.is_owners() {
            let policy = if row == Row::OwnerStops { "stop-with" } else { "require" };
            self.must(self.engine.create(sidecar("side", "web1", policy), None).await).await;
        }
        if row == Row::Scale {
            self.must(self.verb(key("autoscale.memory", "100MiB..1GiB")).await).await;
        }
        if matches!(row, Row::Sleep | Row::Wake) {
            self.must(self.verb(key("idle.freeze", "1m")).await).await;
        }
        if row == Row::Wake {
            self.host.rest(self.record("web1").expect("web1").id, false);
            self.rest().await;
        }
        if row == Row::Purge {
            self.make_objects(true).await;
            self.must(self.engine.create(sidecar("side", "web1", "require"), None).await).await;
            self.must(self.import(true).await).await;
        }
        if row == Row::StopStubborn {
            let id = self.record("web1").expect("web1").id;
            self.host.world().stubborn.insert(id);
        }
    }

    async fn make_objects(&self, network: bool) {
        self.engine.create_namespace(lab::object(NamespaceKind::User, "team")).await.expect("users");
        if network {
            let blue = engine::NewNamespace { netns: false, ..lab::object(NamespaceKind::Net, "blue") };
            self.engine.create_namespace(blue).await.expect("a network");
        }
    }

    async fn must(&self, accepted: engine::Result<OperationView>) {
        self.ended(accepted).await.expect("set up");
    }

    async fn import(&self, named: bool) -> engine::Result<OperationView> {
        let aliases = if named { vec![("mine".to_owned(), String::new())] } else { Vec::new() };
        self.engine.import_image("upload".into(), ImageWish { aliases, ..ImageWish::default() }).await
    }

    async fn verb(&self, verb: Verb) -> engine::Result<OperationView> {
        self.engine.ask(&ProjectName::default(), "web1", verb, None, Some("root".into())).await
    }

    /// Does what the row is about. `promise` is the operation that the caller was told of.
    pub(crate) async fn act(&self, row: Row, promise: &Cell<Option<Uuid>>) -> Result<(), String> {
        let accepted = match row {
            Row::Create => self.engine.create(new_instance("web1", false), None).await,
            Row::Launch | Row::LaunchUnbuilt => self.engine.create(new_instance("web1", true), None).await,
            Row::Join => self.engine.create(sidecar("web1", "other", "require"), None).await,
            Row::LiveInObjects => self.engine.create(in_objects("web1"), None).await,
            Row::Persist => self.engine.create(persisting("web1"), None).await,
            Row::Start => self.verb(Verb::Start).await,
            Row::StopClean | Row::StopStubborn | Row::StopFrozen | Row::StopEphemeral | Row::OwnerStops => {
                self.verb(Verb::Stop(CLEAN)).await
            }
            Row::StopForce => self.verb(Verb::Stop(StopKind::Force)).await,
            Row::RestartClean | Row::RestartFrozen | Row::RestartPersisting => self.verb(Verb::Restart(CLEAN)).await,
            Row::RestartForce => self.verb(Verb::Restart(StopKind::Force)).await,
            Row::Freeze => self.verb(Verb::Freeze).await,
            Row::Thaw => self.verb(Verb::Thaw).await,
            Row::Limits | Row::LimitsStopped => self.verb(self.limits()).await,
            Row::RemoveNic => self.verb(nic(false)).await,
            Row::AddNic => self.verb(nic(true)).await,
            Row::Nesting => self.verb(key("security.nesting", "true")).await,
            Row::Delete | Row::DeletePersisting => self.verb(Verb::Delete).await,
            Row::Import => self.import(false).await,
            Row::ImportNamed => self.import(true).await,
            Row::Build => self.engine.build_image("debian", ImageWish::default()).await,
            Row::DeleteImage => self.engine.delete_image(&UPLOADED.to_string()).await,
            _ => return self.act_at_once(row).await,
        };
        promise.set(accepted.as_ref().ok().map(|view| view.id));
        self.ended(accepted).await
    }

    /// Rows that are no operation.
    async fn act_at_once(&self, row: Row) -> Result<(), String> {
        let alias =
            |description: &str| Alias { name: "mine".into(), description: description.into(), target: UPLOADED };
        let done = match row {
            Row::ChangeImage => {
                let properties = [("os".to_owned(), "changed".to_owned())].into();
                self.engine.change_image(&UPLOADED.to_string(), properties, true).await
            }
            Row::CreateAlias => self.engine.create_alias(alias("")).await,
            Row::ChangeAlias => self.engine.change_alias("mine", None, Some("changed".into())).await,
            Row::DeleteAlias => self.engine.delete_alias("mine").await,
            Row::CreateProfile => self.engine.create_profile(profile(None)).await,
            Row::ChangeProfile => self.engine.change_profile(profile(Some("99")), None).await,
            Row::DeleteProfile => self.engine.delete_profile(&ProjectName::default(), "mine").await,
            Row::LimitsAtOnce | Row::LimitsAtOnceStopped => {
                let config = [("limits.processes".to_owned(), "99".to_owned())].into();
                let project = ProjectName::default();
                self.engine.change_limits(&project, "web1", config, None, None).await.map(drop)
            }
            Row::CreateUsers => self.engine.create_namespace(lab::object(NamespaceKind::User, "team")).await.map(drop),
            Row::CreateNetwork => self.engine.create_namespace(lab::object(NamespaceKind::Net, "blue")).await.map(drop),
            Row::AdoptNetwork => self.engine.create_namespace(lab::adopted("blue", "other")).await.map(drop),
            Row::ChangeNetwork => {
                let change = NamespaceChange { netns: Some(true), ..NamespaceChange::default() };
                self.engine.change_namespace(NamespaceKind::Net, "blue", change, None).await
            }
            Row::DeleteNetwork => self.engine.delete_namespace(NamespaceKind::Net, "blue").await,
            Row::CollectNamespaces => self.engine.collect_namespaces(false).await.map(drop),
            Row::Repair => self.engine.repair(&*self.host).await.map(drop),
            Row::Halt => {
                self.engine.halt().await;
                Ok(())
            }
            Row::Purge => {
                let failed = self.engine.purge().await;
                return if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) };
            }
            _ => {
                let id = self.record("web1").ok_or("gone")?.id;
                if matches!(row, Row::Scale | Row::Sleep | Row::Wake) {
                    match row {
                        Row::Scale => self.host.need_memory(id),
                        _ => self.host.rest(id, row == Row::Wake),
                    }
                    self.rest().await;
                    return Ok(());
                }
                let end = match row {
                    Row::GuestReboot | Row::OwnerReboots => End::Reboot,
                    Row::GuestDies => End::Signal(11),
                    _ => End::Halt,
                };
                self.host.end_guest(id, end);
                self.rest().await;
                Ok(())
            }
        };
        self.engine.rest().await;
        done.map_err(|error| error.to_string())
    }

    fn limits(&self) -> Verb {
        let record = self.record("web1").expect("web1");
        let mut written = record.wish.written.clone();
        written.config.insert("limits.processes".into(), "99".into());
        let profiles = record.wish.profiles.clone();
        Verb::Update(Box::new(Update { written, profiles, description: String::new(), ephemeral: false }))
    }

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
        let is_restart = restarts.contains(&row) || row == Row::RestartPersisting;
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
            (wish.ids.count == IdMap::NESTING, " nesting"),
            (name == "web1" && self.host.world().pins.keys().any(|pin| pin.of == view.record.id.0), " persisting"),
            (is_restart && wish.power.boot().is_some_and(|boot| boot.0 > 1), " again"),
        ] {
            words.push_str(if holds { word } else { "" });
        }
        words
    }
}

/// A new instance in the namespaces of another one.
fn sidecar(name: &str, owner: &str, policy: &str) -> NewInstance {
    let keys = [("namespaces.preset", format!("sidecar:{owner}")), ("namespaces.join.policy", policy.to_owned())];
    let config = keys.map(|(key, value)| (key.to_owned(), value)).into();
    NewInstance { written: Written { config, ..Written::default() }, ..new_instance(name, true) }
}

/// A new instance whose network outlives its boots.
fn persisting(name: &str) -> NewInstance {
    let config = [("namespaces.net.persist".to_owned(), "true".to_owned())].into();
    NewInstance { written: Written { config, ..Written::default() }, ..new_instance(name, true) }
}

/// A new instance that lives in the namespace objects.
fn in_objects(name: &str) -> NewInstance {
    let keys = [("namespaces.user", "named:team"), ("namespaces.net", "named:blue")];
    let config = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    NewInstance { written: Written { config, ..Written::default() }, ..new_instance(name, true) }
}

fn profile(processes: Option<&str>) -> ProfileRecord {
    let config = processes.map(|n| ("limits.processes".to_owned(), n.to_owned()));
    ProfileRecord {
        project: ProjectName::default(),
        name: "mine".parse().expect("name"),
        description: String::new(),
        written: Written { config: config.into_iter().collect(), ..Written::default() },
    }
}

fn key(name: &str, value: &str) -> Verb {
    let written = Written { config: [(name.to_owned(), value.to_owned())].into(), ..Written::default() };
    Verb::Patch(Box::new(Patch { written, ..Patch::default() }))
}

/// With the NIC of the profile, or a device of no kind laid over it.
pub(crate) fn nic(with: bool) -> Verb {
    let mut written = Written::default();
    let device: &[(&str, &str)] =
        if with { &[("type", "nic"), ("name", "eth0"), ("network", "br0")] } else { &[("type", "none")] };
    let device = device.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    written.devices.insert("eth0".into(), device);
    Verb::Patch(Box::new(Patch { written, ..Patch::default() }))
}
