//! Projects.

use sysctl_api::Project;

use crate::client::{Client, Tagged};
use crate::error::Result;
use crate::uri::Uri;

const PROJECTS: &str = "/1.0/projects";

impl Client {
    /// All projects.
    pub async fn get_projects(&self) -> Result<Vec<Project>> {
        self.get(Uri::new(PROJECTS).query("recursion", "1")).await
    }

    /// A project.
    pub async fn get_project(&self, name: &str) -> Result<Tagged<Project>> {
        self.get_tagged(Uri::new(PROJECTS).part(name)).await
    }
}
