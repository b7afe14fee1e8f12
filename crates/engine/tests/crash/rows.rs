//! The rows of the crash table: what is asked, in which state, and what it leads to.

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
    BiteFreezes,
    BiteKills,
    Sleep,
    Wake,
    RemoveNic,
    AddNic,
    AddWire,
    StartWired,
    RestartWired,
    RemoveWire,
    PeerStops,
    CreateChain,
    InsertFunction,
    DeleteChain,
    Nesting,
    Delete,
    GuestReboot,
    GuestHalt,
    GuestHaltsAmongOthers,
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
pub(crate) const ROWS: [Row; 68] = [
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
    Row::BiteFreezes,
    Row::BiteKills,
    Row::Sleep,
    Row::Wake,
    Row::RemoveNic,
    Row::AddNic,
    Row::AddWire,
    Row::StartWired,
    Row::RestartWired,
    Row::RemoveWire,
    Row::PeerStops,
    Row::CreateChain,
    Row::InsertFunction,
    Row::DeleteChain,
    Row::Nesting,
    Row::Delete,
    Row::GuestReboot,
    Row::GuestHalt,
    Row::GuestHaltsAmongOthers,
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
            Row::BiteFreezes => facts("running", "frozen", "instance-paused"),
            Row::BiteKills => facts("running", "stopped", "instance-stopped"),
            // The next daemon may let it go on, so that it may be told of both.
            Row::Sleep => quiet("running", "running asleep"),
            Row::Wake => quiet("running asleep", "running"),
            Row::RemoveNic => facts("running", "running bare", "instance-updated"),
            Row::AddNic => facts("running bare", "running", "instance-updated"),
            Row::AddWire => facts("running", "running wired", "instance-updated"),
            Row::StartWired => facts("stopped", "running wired", "instance-started"),
            Row::RestartWired => {
                let also = &["stopped"];
                Facts { also, ..facts("running wired", "running wired again", "instance-restarted") }
            }
            Row::RemoveWire => facts("running wired", "running", "instance-updated"),
            // The other one runs on, without its end.
            Row::PeerStops => Facts { told: Some(("instance-shutdown", "peer")), ..quiet("running wired", "running") },
            Row::CreateChain => quiet("running", "running chained"),
            Row::InsertFunction => quiet("running chained", "running chained filtered"),
            Row::DeleteChain => quiet("running chained filtered", "running"),
            Row::Nesting => facts("stopped", "stopped nesting", "instance-updated"),
            Row::Delete => facts("stopped", "none", "instance-deleted"),
            Row::GuestReboot => facts("running", "running again", "instance-restarted"),
            Row::GuestHalt | Row::GuestHaltsAmongOthers => facts("running", "stopped", "instance-shutdown"),
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
        let halts = matches!(self, Row::GuestHalt | Row::GuestHaltsAmongOthers);
        let ends = halts || matches!(self, Row::GuestReboot | Row::GuestDies | Row::GuestEphemeral);
        let bitten = matches!(self, Row::BiteFreezes | Row::BiteKills);
        ends || bitten || matches!(self, Row::OwnerHalts | Row::OwnerReboots | Row::Scale | Row::Sleep | Row::Wake)
    }

    /// It is about the namespaces of web1, which another instance, side, lives in.
    pub(crate) fn is_owners(self) -> bool {
        matches!(self, Row::OwnerStops | Row::OwnerHalts | Row::OwnerReboots)
    }

    /// It is about a wire between web1 and another instance, peer.
    pub(crate) fn is_wired(self) -> bool {
        let made = matches!(self, Row::AddWire | Row::StartWired | Row::RestartWired);
        made || matches!(self, Row::RemoveWire | Row::PeerStops)
    }

    /// It is about a chain that ends at web1, and whose function is another instance, peer.
    pub(crate) fn is_of_chain(self) -> bool {
        matches!(self, Row::CreateChain | Row::InsertFunction | Row::DeleteChain)
    }

    /// It is one operation, which says how it ended.
    pub(crate) fn is_task(self) -> bool {
        let image = matches!(self, Row::Import | Row::ImportNamed | Row::Build | Row::DeleteImage);
        let at_once = matches!(self, Row::LimitsAtOnce | Row::LimitsAtOnceStopped);
        image || self.facts().told.is_some() && !self.is_guests() && !at_once
    }

    /// It is about namespace objects.
    pub(crate) fn is_of_objects(self) -> bool {
        let made = matches!(self, Row::CreateUsers | Row::CreateNetwork | Row::AdoptNetwork | Row::ChangeNetwork);
        made || matches!(self, Row::DeleteNetwork | Row::CollectNamespaces)
    }

    /// It is about everything: there can be no bystander.
    pub(crate) fn is_about_all(self) -> bool {
        matches!(self, Row::LaunchUnbuilt | Row::Build | Row::Purge | Row::Halt)
    }
}
