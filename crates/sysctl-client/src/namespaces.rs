//! Namespaces: extension `sysctl_namespaces`.

use hyper::Method;
use serde_json::Value;
use sysctl_api::{
    InstanceNamespace, NamespacePatch, NamespaceView, NamespacesGc, NamespacesGcPost, NamespacesPost, PlanStep,
};

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
use crate::instances::plan;
use crate::uri::Uri;

const NAMESPACES: &str = "/1.0/namespaces";

impl Client {
    /// A namespace object by kind and name, or any namespace by kind and number.
    pub async fn get_namespace(&self, kind: &str, name: &str) -> Result<Tagged<NamespaceView>> {
        self.get_tagged(Uri::new(NAMESPACES).part(kind).part(name)).await
    }

    /// Makes a namespace object, or takes a namespace as one that there is already.
    pub async fn create_namespace(&self, post: &NamespacesPost) -> Result<()> {
        self.send::<Nothing>(Method::POST, Uri::new(NAMESPACES), post, None).await.map(drop)
    }

    /// What [`Client::create_namespace`] would do.
    pub async fn plan_create_namespace(&self, post: &NamespacesPost) -> Result<Vec<PlanStep>> {
        self.send(Method::POST, plan(Uri::new(NAMESPACES)), post, None).await
    }

    /// Changes a namespace object.
    pub async fn patch_namespace(&self, kind: &str, name: &str, patch: &NamespacePatch) -> Result<()> {
        let uri = Uri::new(NAMESPACES).part(kind).part(name);
        self.send::<Nothing>(Method::PATCH, uri, patch, None).await.map(drop)
    }

    /// What [`Client::patch_namespace`] would do.
    pub async fn plan_patch_namespace(&self, kind: &str, name: &str, patch: &NamespacePatch) -> Result<Vec<PlanStep>> {
        self.send(Method::PATCH, plan(Uri::new(NAMESPACES).part(kind).part(name)), patch, None).await
    }

    /// Deletes a namespace object that nobody uses.
    pub async fn delete_namespace(&self, kind: &str, name: &str) -> Result<()> {
        self.delete::<Nothing>(Uri::new(NAMESPACES).part(kind).part(name)).await.map(drop)
    }

    /// What [`Client::delete_namespace`] would do.
    pub async fn plan_delete_namespace(&self, kind: &str, name: &str) -> Result<Vec<PlanStep>> {
        self.delete(plan(Uri::new(NAMESPACES).part(kind).part(name))).await
    }

    /// Removes namespace objects that nobody uses, and pins that belong to nothing; with `dry_run` only tells which.
    pub async fn collect_namespaces(&self, dry_run: bool) -> Result<NamespacesGc> {
        let post = NamespacesGcPost { dry_run };
        self.send(Method::POST, Uri::new(NAMESPACES).part("gc"), &post, None).await
    }

    /// Every namespace that running instances of the project live in, and every object.
    pub async fn get_namespaces(&self) -> Result<Vec<NamespaceView>> {
        self.get(Uri::new(NAMESPACES).query("recursion", "1")).await
    }

    /// Who shares what with whom: an object, or with the format `text`, `dot` or `mermaid` a text.
    pub async fn get_namespace_graph(&self, format: &str) -> Result<Value> {
        self.get(Uri::new("/1.0/namespaces/graph").query("format", format)).await
    }

    /// Whose namespaces an instance lives in.
    pub async fn get_instance_namespaces(&self, name: &str) -> Result<Vec<InstanceNamespace>> {
        self.get(Uri::new("/1.0/instances").part(name).part("namespaces")).await
    }
}
