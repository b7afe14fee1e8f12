//! Instances and their state.

use hyper::Method;
use serde::Serialize;
use sysctl_api::{
    Explanation, Instance, InstanceFull, InstancePut, InstanceState, InstancesPost, InstancesPutState, Operation,
    PlanStep, StatePut,
};

use crate::client::{Client, Tagged};
use crate::error::Result;
use crate::uri::Uri;

const INSTANCES: &str = "/1.0/instances";

/// What a listing shall have in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Like `status eq running`; empty is everything.
    pub filter: String,
    /// Of every project.
    pub all_projects: bool,
}

impl ListOptions {
    pub(crate) fn apply(&self, mut uri: Uri, recursion: &str) -> Uri {
        uri = uri.query("recursion", recursion);
        if !self.filter.is_empty() {
            uri = uri.query("filter", &self.filter);
        }
        if self.all_projects { uri.query("all-projects", "true") } else { uri }
    }
}

pub(crate) fn instance(name: &str) -> Uri {
    Uri::new(INSTANCES).part(name)
}

/// The same request, which only tells what it would do.
pub(crate) fn plan(uri: Uri) -> Uri {
    uri.query("plan", "1")
}

impl Client {
    /// Paths of instances.
    pub async fn get_instance_paths(&self, options: &ListOptions) -> Result<Vec<String>> {
        self.get(options.apply(Uri::new(INSTANCES), "0")).await
    }

    /// Instances without their state: `recursion=1`.
    pub async fn get_instances(&self, options: &ListOptions) -> Result<Vec<Instance>> {
        self.get(options.apply(Uri::new(INSTANCES), "1")).await
    }

    /// Instances with their state: `recursion=2`.
    pub async fn get_instances_full(&self, options: &ListOptions) -> Result<Vec<InstanceFull>> {
        self.get(options.apply(Uri::new(INSTANCES), "2")).await
    }

    /// An instance, with the entity tag that a change may be sent back with.
    pub async fn get_instance(&self, name: &str) -> Result<Tagged<Instance>> {
        self.get_tagged(instance(name)).await
    }

    /// An instance with its state.
    pub async fn get_instance_full(&self, name: &str) -> Result<InstanceFull> {
        self.get(instance(name).query("recursion", "1")).await
    }

    /// Makes an instance, and starts it where `start` says so.
    pub async fn create_instance(&self, post: &InstancesPost) -> Result<Operation> {
        self.send(Method::POST, Uri::new(INSTANCES), post, None).await
    }

    /// What [`Client::create_instance`] would do.
    pub async fn plan_create_instance(&self, post: &InstancesPost) -> Result<Vec<PlanStep>> {
        self.send(Method::POST, plan(Uri::new(INSTANCES)), post, None).await
    }

    /// Replaces what is written about an instance. With an entity tag, only if nobody changed it since (else status 412).
    pub async fn update_instance(&self, name: &str, put: &InstancePut, etag: Option<&str>) -> Result<Operation> {
        self.send(Method::PUT, instance(name), put, etag).await
    }

    /// What [`Client::update_instance`] would do.
    pub async fn plan_update_instance(&self, name: &str, put: &InstancePut) -> Result<Vec<PlanStep>> {
        self.send(Method::PUT, plan(instance(name)), put, None).await
    }

    /// Lays keys and devices over those of an instance; an empty value takes a key back.
    pub async fn patch_instance(&self, name: &str, patch: &InstancePut, etag: Option<&str>) -> Result<Operation> {
        self.send(Method::PATCH, instance(name), patch, etag).await
    }

    /// What [`Client::patch_instance`] would do.
    pub async fn plan_patch_instance(&self, name: &str, patch: &InstancePut) -> Result<Vec<PlanStep>> {
        self.send(Method::PATCH, plan(instance(name)), patch, None).await
    }

    /// Gives an instance another name.
    pub async fn rename_instance(&self, name: &str, new: &str) -> Result<Operation> {
        #[derive(Serialize)]
        struct Rename<'a> {
            name: &'a str,
            migration: bool,
        }
        self.send(Method::POST, instance(name), &Rename { name: new, migration: false }, None).await
    }

    /// Deletes an instance, which must not run.
    pub async fn delete_instance(&self, name: &str) -> Result<Operation> {
        self.delete(instance(name)).await
    }

    /// What [`Client::delete_instance`] would do.
    pub async fn plan_delete_instance(&self, name: &str) -> Result<Vec<PlanStep>> {
        self.delete(plan(instance(name))).await
    }

    /// What an instance uses.
    pub async fn get_instance_state(&self, name: &str) -> Result<InstanceState> {
        self.get(instance(name).part("state")).await
    }

    /// Starts, stops, restarts, freezes or thaws an instance.
    pub async fn update_instance_state(&self, name: &str, put: &StatePut) -> Result<Operation> {
        self.send(Method::PUT, instance(name).part("state"), put, None).await
    }

    /// What [`Client::update_instance_state`] would do.
    pub async fn plan_update_instance_state(&self, name: &str, put: &StatePut) -> Result<Vec<PlanStep>> {
        self.send(Method::PUT, plan(instance(name).part("state")), put, None).await
    }

    /// The same for all instances of the project. `None` when there was nothing to do.
    pub async fn update_all_instances_state(&self, put: &StatePut) -> Result<Option<Operation>> {
        let body = InstancesPutState { state: Some(put.clone()) };
        let answer: Operation = self.send(Method::PUT, Uri::new(INSTANCES), &body, None).await?;
        Ok((!answer.id.is_empty()).then_some(answer))
    }

    /// What isolates a running instance, and from what.
    pub async fn explain_instance(&self, name: &str) -> Result<Explanation> {
        self.get(instance(name).part("explain")).await
    }

    /// A script for a shell that starts an instance without the daemon.
    pub async fn explain_instance_as_shell(&self, name: &str) -> Result<String> {
        self.get(instance(name).part("explain").query("as", "shell")).await
    }
}
