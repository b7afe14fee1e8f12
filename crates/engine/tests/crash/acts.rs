//! What each row sets up and asks for.

use std::cell::Cell;

use config::Written;
use engine::{Alias, ImageWish, NamespaceChange, NewInstance, OperationView, Patch, ProfileRecord, Update, Verb};
use model::{Bounded, End, NamespaceKind, ProjectName, StopKind};
use uuid::Uuid;

use crate::lab::{self, Daemon, UPLOADED, chain, new_instance, wire};
use crate::rows::Row;

const CLEAN: StopKind = StopKind::Clean { timeout_s: 5 };

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
        let new = match row {
            Row::GuestHaltsAmongOthers => among_others("web1"),
            _ => NewInstance { ephemeral, ..new_instance("web1", start) },
        };
        self.must(self.engine.create(new, None).await).await;
        if row.facts().before == "frozen" {
            self.must(self.verb(Verb::Freeze).await).await;
        }
        if row == Row::AddNic {
            self.must(self.verb(nic(false)).await).await;
        }
        if row.is_wired() {
            self.must(self.engine.create(new_instance("peer", true), None).await).await;
            if row != Row::AddWire {
                self.must(self.verb(wire(true)).await).await;
            }
        }
        if row.is_owners() {
            let policy = if row == Row::OwnerStops { "stop-with" } else { "require" };
            self.must(self.engine.create(sidecar("side", "web1", policy), None).await).await;
        }
        if row.is_of_chain() {
            self.must(self.engine.create(new_instance("peer", true), None).await).await;
        }
        if matches!(row, Row::InsertFunction | Row::DeleteChain) {
            self.engine.create_network(chain("")).await.expect("a chain");
        }
        if row == Row::DeleteChain {
            self.change_chain("peer").await.expect("a function");
        }
        if row == Row::Scale {
            self.must(self.verb(key("autoscale.memory", "100MiB..1GiB")).await).await;
        }
        if matches!(row, Row::BiteFreezes | Row::BiteKills) {
            let action = if row == Row::BiteKills { "kill" } else { "freeze" };
            self.must(self.verb(key("limits.action.pids", action)).await).await;
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
            Row::Start | Row::StartWired => self.verb(Verb::Start).await,
            Row::AddWire => self.verb(wire(true)).await,
            Row::RemoveWire => self.verb(wire(false)).await,
            Row::PeerStops => self.engine.ask(&ProjectName::default(), "peer", Verb::Stop(CLEAN), None, None).await,
            Row::StopClean | Row::StopStubborn | Row::StopFrozen | Row::StopEphemeral | Row::OwnerStops => {
                self.verb(Verb::Stop(CLEAN)).await
            }
            Row::StopForce => self.verb(Verb::Stop(StopKind::Force)).await,
            Row::RestartClean | Row::RestartFrozen | Row::RestartPersisting | Row::RestartWired => {
                self.verb(Verb::Restart(CLEAN)).await
            }
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
            Row::ChangeProfile => {
                let after = profile(Some("99"));
                let (project, name) = (after.project.clone(), after.name.to_string());
                self.engine.change_profile(&project, &name, None, |_| after).await
            }
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
            Row::CreateChain => self.engine.create_network(chain("")).await,
            Row::InsertFunction => self.change_chain("peer").await,
            Row::DeleteChain => self.engine.delete_network(&chain("").name).await,
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
                let bitten = matches!(row, Row::BiteFreezes | Row::BiteKills);
                if bitten || matches!(row, Row::Scale | Row::Sleep | Row::Wake) {
                    match row {
                        _ if bitten => self.host.bite(id, Bounded::Pids),
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

    async fn change_chain(&self, functions: &str) -> engine::Result<()> {
        let new = chain(functions);
        self.engine.change_network(&new.name, None, new.config, None).await
    }

    fn limits(&self) -> Verb {
        let record = self.record("web1").expect("web1");
        let mut written = record.wish.written.clone();
        written.config.insert("limits.processes".into(), "99".into());
        let profiles = record.wish.profiles.clone();
        Verb::Update(Box::new(Update { written, profiles, description: String::new(), ephemeral: false }))
    }
}

/// A new instance in the namespaces of another one.
fn sidecar(name: &str, owner: &str, policy: &str) -> NewInstance {
    let keys = [("namespaces.preset", format!("sidecar:{owner}")), ("namespaces.join.policy", policy.to_owned())];
    let config = keys.map(|(key, value)| (key.to_owned(), value)).into();
    NewInstance { written: Written { config, ..Written::default() }, ..new_instance(name, true) }
}

/// A new instance among the host's processes, whose init takes none of its own along.
fn among_others(name: &str) -> NewInstance {
    let keys = [("namespaces.pid", "host"), ("boot.init", "/bin/app")];
    let config = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
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
