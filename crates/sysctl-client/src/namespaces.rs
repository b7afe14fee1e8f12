//! Namespaces: extension `sysctl_namespaces`.

use serde_json::Value;
use sysctl_api::{InstanceNamespace, NamespaceView};

use crate::client::Client;
use crate::error::Result;
use crate::uri::Uri;

impl Client {
    /// Every namespace that running instances of the project live in.
    pub async fn get_namespaces(&self) -> Result<Vec<NamespaceView>> {
        self.get(Uri::new("/1.0/namespaces").query("recursion", "1")).await
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
