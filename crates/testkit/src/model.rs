//! What instances promise, as a small pure machine: states, what may be asked, and which states explain what was answered.
//!
//! The engine on the fake host and the real daemon are driven by the same commands and compared with this. It knows nothing
//! of steps, of the database or of time. What is posted at once is explained when some serial order of it is allowed.

use std::collections::BTreeSet;

use proptest::prelude::*;

/// Instances that commands are about; their names are [`name`] of 0 and up.
pub const INSTANCES: usize = 3;

/// Most things asked of one instance at once: 4 have 24 orders.
pub const AT_ONCE: usize = 4;

/// Name of an instance.
pub fn name(on: usize) -> String {
    format!("model{on}")
}

/// Whether it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// It does not.
    Stopped,
    /// It does.
    Running,
    /// It is held still.
    Frozen,
}

/// An instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// Whether it runs.
    pub power: Power,
    /// Its `limits.processes`; `None` when it has none.
    pub limit: Option<u32>,
    /// It is deleted when it stops.
    pub ephemeral: bool,
    /// It has the NIC `eth0` of its profile.
    pub nic: bool,
}

/// A place for an instance; `None`: there is none.
pub type State = Option<Instance>;

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Make it, and start it or not.
    Create {
        /// At once.
        start: bool,
        /// It is deleted when it stops.
        ephemeral: bool,
    },
    /// Start it.
    Start,
    /// Stop it, cleanly or by force.
    Stop {
        /// By force.
        force: bool,
    },
    /// Restart it, cleanly or by force.
    Restart {
        /// By force.
        force: bool,
    },
    /// Hold it still.
    Freeze,
    /// Let it go on.
    Thaw,
    /// Set `limits.processes`.
    Limit(u32),
    /// Take its NIC away (a device of type `none` over the profile's) or give it back.
    Nic(bool),
    /// Delete it.
    Delete,
}

/// How a guest ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It asks for a reboot.
    Reboot,
    /// It halts.
    Halt,
    /// Its init is killed.
    Killed,
}

/// What happens besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// The daemon is killed and started again.
    KillDaemon,
    /// The guest ends.
    GuestEnds(End),
    /// The keeper is killed.
    KillKeeper,
    /// The host refuses one step, once.
    Refuse,
    /// The disk of the database is full from now on.
    FillDisk,
    /// It is not any more.
    FreeDisk,
    /// Whoever asked goes away without waiting for an answer.
    ClientVanishes,
}

/// Things asked of one instance at the same time, and what happens meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Which instance.
    pub on: usize,
    /// What is asked, all at once; may be nothing.
    pub asks: Vec<Ask>,
    /// What happens besides, and after how many steps on the host; how steps are counted is the driver's choice.
    pub disturbed: Option<(Disturbance, u8)>,
}

/// What became of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was accepted, and its operation succeeded.
    Done,
    /// It was accepted, and its operation failed.
    Failed,
    /// It was not accepted.
    Refused,
    /// Nobody heard an answer.
    Unknown,
}

impl Ask {
    /// The state that is asked for; `None` when it cannot be asked in this one.
    pub fn wish(self, now: State) -> Option<State> {
        let Some(instance) = now else {
            let Ask::Create { start, ephemeral } = self else { return None };
            let power = if start { Power::Running } else { Power::Stopped };
            return Some(Some(Instance { power, limit: None, ephemeral, nic: true }));
        };
        let power = |power| Some(Some(Instance { power, ..instance }));
        match (self, instance.power) {
            // Going on after a pause may be called a start, too.
            (Ask::Start, Power::Stopped | Power::Frozen) | (Ask::Thaw, Power::Frozen) => power(Power::Running),
            (Ask::Stop { .. }, Power::Running | Power::Frozen) => Some(stopped(instance)),
            (Ask::Restart { .. }, Power::Running | Power::Frozen) => power(Power::Running),
            (Ask::Freeze, Power::Running) => power(Power::Frozen),
            (Ask::Delete, Power::Stopped) => Some(None),
            (Ask::Limit(limit), _) => Some(Some(Instance { limit: Some(limit), ..instance })),
            (Ask::Nic(nic), _) => Some(Some(Instance { nic, ..instance })),
            (Ask::Create { .. } | Ask::Start | Ask::Freeze | Ask::Thaw | Ask::Delete, _)
            | (Ask::Stop { .. } | Ask::Restart { .. }, Power::Stopped) => None,
        }
    }

    /// The states in which it may leave things when it fails: what was before, and what README documents beside that.
    fn failed(self, now: State) -> Vec<State> {
        match (self, self.wish(now), now) {
            // What cannot be asked does not come as far as failing.
            (_, None, _) => Vec::new(),
            // It is made, and could not be started.
            (Ask::Create { .. }, Some(Some(made)), _) => vec![None, Some(Instance { power: Power::Stopped, ..made })],
            // The old boot is gone and the new one could not be made.
            (Ask::Restart { .. }, _, Some(ran)) => {
                vec![now, Some(Instance { power: Power::Stopped, ..ran }), stopped(ran)]
            }
            // It ends, and that cannot be written down.
            (Ask::Stop { .. }, _, Some(ran)) => {
                vec![now, stopped(ran), Some(Instance { power: Power::Stopped, ..ran })]
            }
            _ => vec![now],
        }
    }

    /// The states in which it may leave things, given what became of it. `trouble`: something went wrong meanwhile.
    fn after(self, now: State, outcome: Outcome, trouble: bool) -> Vec<State> {
        match outcome {
            Outcome::Done => self.wish(now).into_iter().collect(),
            Outcome::Refused if trouble || self.wish(now).is_none() => vec![now],
            Outcome::Failed if trouble => self.failed(now),
            Outcome::Refused | Outcome::Failed => Vec::new(),
            Outcome::Unknown => {
                let mut all = vec![now];
                all.extend(self.wish(now));
                all.extend(self.failed(now));
                all
            }
        }
    }
}

/// Not running any more.
fn stopped(instance: Instance) -> State {
    (!instance.ephemeral).then_some(Instance { power: Power::Stopped, ..instance })
}

impl End {
    /// The states after it, or without it: what had ended already cannot end again, and what is held still cannot act.
    fn after(self, now: State) -> Vec<State> {
        match (self, now) {
            (_, None | Some(Instance { power: Power::Stopped, .. })) => vec![now],
            (End::Reboot, Some(instance)) => vec![now, Some(Instance { power: Power::Running, ..instance })],
            (End::Halt | End::Killed, Some(instance)) => vec![now, stopped(instance)],
        }
    }
}

/// All states that a command may have left, given the state before and what became of each thing that was asked: those of
/// every serial order that is allowed. None: nothing explains what was answered. `trouble`: something had gone wrong before
/// and still is (the disk is full).
pub fn explain(before: State, command: &Command, outcomes: &[Outcome], trouble: bool) -> BTreeSet<State> {
    let disturbance = command.disturbed.map(|(disturbance, _)| disturbance);
    // A listener that goes away is no excuse for a failure, nor is a keeper that dies while nothing is asked.
    let harmless = match disturbance {
        None | Some(Disturbance::ClientVanishes | Disturbance::FreeDisk) => true,
        Some(Disturbance::KillKeeper) => command.asks.is_empty(),
        Some(_) => false,
    };
    let end = match disturbance {
        Some(Disturbance::GuestEnds(end)) => Some(end),
        _ => None,
    };
    let events: Vec<(Ask, Outcome)> = command.asks.iter().copied().zip(outcomes.iter().copied()).collect();
    let mut states = BTreeSet::new();
    order(before, &events, end, trouble || !harmless, &mut states);
    states
}

/// Takes each of what is left as the next one in turn.
fn order(now: State, left: &[(Ask, Outcome)], end: Option<End>, trouble: bool, states: &mut BTreeSet<State>) {
    if let Some(end) = end {
        end.after(now).into_iter().for_each(|state| order(state, left, None, trouble, states));
    }
    if left.is_empty() && end.is_none() {
        states.insert(now);
    }
    for (n, (ask, outcome)) in left.iter().enumerate() {
        let rest: Vec<_> = left.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, event)| *event).collect();
        ask.after(now, *outcome, trouble).into_iter().for_each(|state| order(state, &rest, end, trouble, states));
    }
}

/// Anything that may be asked.
pub fn any_ask() -> impl Strategy<Value = Ask> {
    let flag = any::<bool>;
    prop_oneof![
        4 => (flag(), prop::bool::weighted(0.2)).prop_map(|(start, ephemeral)| Ask::Create { start, ephemeral }),
        3 => Just(Ask::Start),
        3 => flag().prop_map(|force| Ask::Stop { force }),
        2 => flag().prop_map(|force| Ask::Restart { force }),
        2 => Just(Ask::Freeze),
        2 => Just(Ask::Thaw),
        1 => (100..103u32).prop_map(Ask::Limit),
        1 => flag().prop_map(Ask::Nic),
        2 => Just(Ask::Delete),
    ]
}

/// Anything that may happen besides.
pub fn any_disturbance() -> impl Strategy<Value = Disturbance> {
    prop_oneof![
        4 => Just(Disturbance::KillDaemon),
        1 => Just(Disturbance::GuestEnds(End::Reboot)),
        1 => Just(Disturbance::GuestEnds(End::Halt)),
        1 => Just(Disturbance::GuestEnds(End::Killed)),
        2 => Just(Disturbance::KillKeeper),
        3 => Just(Disturbance::Refuse),
        1 => Just(Disturbance::FillDisk),
        2 => Just(Disturbance::FreeDisk),
        2 => Just(Disturbance::ClientVanishes),
    ]
}

/// Any command: mostly one thing asked and nothing wrong.
pub fn any_command() -> impl Strategy<Value = Command> {
    let asks = prop_oneof![
        1 => Just(Vec::new()),
        8 => any_ask().prop_map(|ask| vec![ask]),
        2 => prop::collection::vec(any_ask(), 2..=AT_ONCE),
    ];
    // A launch takes seven steps, a restart eight; its two commits count, too.
    let disturbed = prop::option::weighted(0.35, (any_disturbance(), 0..12u8));
    (0..INSTANCES, asks, disturbed).prop_map(|(on, asks, disturbed)| Command { on, asks, disturbed })
}

/// A sequence of up to so many commands.
pub fn any_sequence(most: usize) -> impl Strategy<Value = Vec<Command>> {
    prop::collection::vec(any_command(), 1..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Instance = Instance { power: Power::Running, limit: None, ephemeral: false, nic: true };
    const STOPPED: Instance = Instance { power: Power::Stopped, ..RUNNING };

    fn states(before: State, asks: &[Ask], outcomes: &[Outcome], disturbed: Option<Disturbance>) -> BTreeSet<State> {
        let command = Command { on: 0, asks: asks.into(), disturbed: disturbed.map(|d| (d, 0)) };
        explain(before, &command, outcomes, false)
    }

    #[test]
    fn without_faults_one_state_follows() {
        let create = Ask::Create { start: true, ephemeral: false };
        assert_eq!(states(None, &[create], &[Outcome::Done], None), [Some(RUNNING)].into());
        assert_eq!(states(None, &[Ask::Start], &[Outcome::Refused], None), [None].into());
        assert!(states(None, &[Ask::Start], &[Outcome::Done], None).is_empty());
        assert!(states(None, &[create], &[Outcome::Refused], None).is_empty());
        assert!(states(Some(RUNNING), &[Ask::Freeze], &[Outcome::Failed], None).is_empty());
        let ephemeral = Some(Instance { ephemeral: true, ..RUNNING });
        assert_eq!(states(ephemeral, &[Ask::Stop { force: true }], &[Outcome::Done], None), [None].into());
    }

    #[test]
    fn what_is_asked_at_once_is_explained_by_an_order() {
        let stop = Ask::Stop { force: true };
        let both = states(Some(RUNNING), &[stop, Ask::Start], &[Outcome::Done, Outcome::Done], None);
        assert_eq!(both, [Some(RUNNING)].into());
        let one = states(Some(RUNNING), &[stop, Ask::Start], &[Outcome::Done, Outcome::Refused], None);
        assert_eq!(one, [Some(STOPPED)].into());
        assert!(states(Some(RUNNING), &[stop, stop], &[Outcome::Done, Outcome::Done], None).is_empty());
        assert!(states(Some(RUNNING), &[stop, stop], &[Outcome::Refused, Outcome::Refused], None).is_empty());
    }

    #[test]
    fn a_guests_end_comes_at_any_moment_or_too_late() {
        let halt = Some(Disturbance::GuestEnds(End::Halt));
        let both = states(Some(RUNNING), &[Ask::Freeze], &[Outcome::Done], halt);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both.contains(&Some(STOPPED)));
        assert_eq!(states(Some(STOPPED), &[], &[], halt), [Some(STOPPED)].into());
    }
}
