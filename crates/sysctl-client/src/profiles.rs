//! Profiles.

use hyper::Method;
use sysctl_api::{Profile, ProfilePut, ProfilesPost};

use crate::client::{Client, Nothing, Tagged};
use crate::error::Result;
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

    /// Replaces a profile.
    pub async fn update_profile(&self, name: &str, put: &ProfilePut, etag: Option<&str>) -> Result<()> {
        self.send::<Nothing>(Method::PUT, Uri::new(PROFILES).part(name), put, etag).await.map(drop)
    }

    /// Deletes a profile that nothing uses.
    pub async fn delete_profile(&self, name: &str) -> Result<()> {
        self.delete::<Nothing>(Uri::new(PROFILES).part(name)).await.map(drop)
    }
}
