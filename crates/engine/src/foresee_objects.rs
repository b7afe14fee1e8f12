//! What a change of a profile or of a namespace object would lead to, without making it.

use std::sync::Arc;

use model::{NamespaceKind, ProjectName, Step};

use crate::engine::Engine;
use crate::error::Result;
use crate::foresee::{Consequence, Foreseen, about};
use crate::namespaces::{Garbage, NamespaceChange, NewNamespace};
use crate::record::{NamespaceRecord, ProfileRecord};
use crate::view::InstanceView;

fn only(steps: Vec<Step>) -> Foreseen {
    Foreseen { steps, others: Vec::new() }
}

impl Engine {
    /// What [`Engine::create_profile`] would do.
    pub fn foresee_new_profile(&self, profile: &ProfileRecord) -> Result<Foreseen> {
        self.check_new_profile(profile).map(|()| only(Vec::new()))
    }

    /// What [`Engine::change_profile`] would do: nothing itself, and something to each of its users.
    pub fn foresee_profile(&self, profile: &ProfileRecord, expect: Option<String>) -> Result<Foreseen> {
        self.check_changed_profile(profile, expect)?;
        let mut then = self.shared.catalog().clone();
        then.profiles.insert((profile.project.clone(), profile.name.clone()), profile.clone());
        let is_user = |view: &Arc<InstanceView>| {
            view.record.project == profile.project && view.record.wish.profiles.contains(&profile.name)
        };
        let mut others = Vec::new();
        for view in self.instances().into_iter().filter(is_user) {
            let (now, then) = (self.shared.wish_of(&view.record), self.shared.wish_by(&then, &view.record));
            let tell = |text: &str| about("instances", view.record.name.as_str(), text);
            match then {
                // It stays as it is until somebody puts that right.
                Err(error) => others.push(tell(&format!("is left as it is: {error}"))),
                Ok(then) => {
                    let steps = plan::diff(&then, &view.observed, self.facts());
                    others.extend(steps.iter().map(|step| tell(&format!("has this done: {}", plan::sentence(step)))));
                    if steps.is_empty() && now.is_ok_and(|now| now.spec != then.spec) {
                        others.push(tell("has it from its next start on"));
                    }
                }
            }
        }
        Ok(Foreseen { steps: Vec::new(), others })
    }

    /// What [`Engine::delete_profile`] would do.
    pub fn foresee_no_profile(&self, project: &ProjectName, name: &str) -> Result<Foreseen> {
        self.unused_profile(project, name).map(|_| only(Vec::new()))
    }

    /// What [`Engine::create_namespace`] would do. What it is made from is looked at when it is made.
    pub fn foresee_new_namespace(&self, new: NewNamespace) -> Result<Foreseen> {
        let (record, spec) = self.prepare_namespace(new)?;
        // What was only given to be told is given back.
        if let Some(ids) = record.ids {
            self.shared.catalog_mut().allocator.forget_ids(ids);
        }
        Ok(only(vec![Step::PinNamespace { spec }]))
    }

    /// What [`Engine::change_namespace`] would do.
    pub fn foresee_namespace(
        &self,
        kind: NamespaceKind,
        name: &str,
        change: NamespaceChange,
        expect: Option<String>,
    ) -> Result<Foreseen> {
        let (before, after) = self.changed_namespace(kind, name, change, expect)?;
        let moved = (before.netns != after.netns).then(|| Step::PinNamespace { spec: after.spec() });
        Ok(only(moved.into_iter().collect()))
    }

    /// What [`Engine::delete_namespace`] would do.
    pub fn foresee_no_namespace(&self, kind: NamespaceKind, name: &str) -> Result<Foreseen> {
        let object = self.namespace(kind, name)?;
        self.shared.check_unused(&self.shared.catalog(), std::slice::from_ref(&object))?;
        Ok(only(vec![Step::UnpinNamespace { pin: object.pin() }]))
    }
}

impl Garbage {
    /// What its collection would do.
    pub fn foreseen(&self) -> Foreseen {
        let gone = |object: &NamespaceRecord| Consequence {
            object: format!("/1.0/namespaces/{}", object.label()),
            text: format!("{} is deleted, as nobody uses it", object.label()),
        };
        let pins = self.pins.iter().copied().chain(self.objects.iter().map(NamespaceRecord::pin));
        let steps = pins.map(|pin| Step::UnpinNamespace { pin }).collect();
        Foreseen { steps, others: self.objects.iter().map(gone).collect() }
    }
}
