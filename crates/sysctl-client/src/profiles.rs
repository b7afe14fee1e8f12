//! Profiles.

use hyper::Method;
use sysctl_api::{PlanStep, Profile, ProfilePut, ProfilesPost};

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
use crate::instances::plan;
use crate::uri::Uri;

const PROFILES: &str = "/1.0/profiles";

impl Client {
    /// Profiles of the project.
    pub async fn get_profiles(&self) -> Result<Vec<Profile>> {
        self.get(Uri::new(PROFILES).query("recursion", "1")).await
    }

    /// A profile.
    pub async fn get_profile(&self, name: &str) -> Result<Tagged<Profile>> {
        self.get_tagged(Uri::new(PROFILES).part(name)).await
    }

    /// Makes a profile.
    pub async fn create_profile(&self, post: &ProfilesPost) -> Result<()> {
        self.send::<Nothing>(Method::POST, Uri::new(PROFILES), post, None).await.map(drop)
    }

    /// What [`Client::create_profile`] would do.
    pub async fn plan_create_profile(&self, post: &ProfilesPost) -> Result<Vec<PlanStep>> {
        self.send(Method::POST, plan(Uri::new(PROFILES)), post, None).await
    }

    /// Replaces a profile.
    pub async fn update_profile(&self, name: &str, put: &ProfilePut, etag: Option<&str>) -> Result<()> {
        self.send::<Nothing>(Method::PUT, Uri::new(PROFILES).part(name), put, etag).await.map(drop)
    }

    /// Changes what is named of a profile; an empty value takes a key back.
    pub async fn patch_profile(&self, name: &str, patch: &ProfilePut, etag: Option<&str>) -> Result<()> {
        self.send::<Nothing>(Method::PATCH, Uri::new(PROFILES).part(name), patch, etag).await.map(drop)
    }

    /// What [`Client::patch_profile`] would do.
    pub async fn plan_patch_profile(&self, name: &str, patch: &ProfilePut) -> Result<Vec<PlanStep>> {
        self.send(Method::PATCH, plan(Uri::new(PROFILES).part(name)), patch, None).await
    }

    /// Deletes a profile that nothing uses.
    pub async fn delete_profile(&self, name: &str) -> Result<()> {
        self.delete::<Nothing>(Uri::new(PROFILES).part(name)).await.map(drop)
    }

    /// What [`Client::delete_profile`] would do.
    pub async fn plan_delete_profile(&self, name: &str) -> Result<Vec<PlanStep>> {
        self.delete(plan(Uri::new(PROFILES).part(name))).await
    }
}
