//! Limits at once, and what they do: extension `sysctl_limits_sync`.

use hyper::Method;
use sysctl_api::{Autoscaling, InstanceLoad, LimitHits, LimitKnob, LimitsApplied, LimitsPatch, PlanStep, Pressure};

use crate::client::Client;
use crate::error::Result;
use crate::instances::{instance, plan};
use crate::uri::Uri;

impl Client {
    /// Changes limits; they hold and are on the disk when this returns.
    pub async fn patch_instance_limits(
        &self,
        name: &str,
        patch: &LimitsPatch,
        etag: Option<&str>,
    ) -> Result<LimitsApplied> {
        self.send(Method::PATCH, instance(name).part("limits"), patch, etag).await
    }

    /// What [`Client::patch_instance_limits`] would do.
    pub async fn plan_patch_instance_limits(&self, name: &str, patch: &LimitsPatch) -> Result<Vec<PlanStep>> {
        self.send(Method::PATCH, plan(instance(name).part("limits")), patch, None).await
    }

    /// Each knob of a running instance with its file, its value and what is used of it.
    pub async fn get_instance_limits(&self, name: &str) -> Result<Vec<LimitKnob>> {
        self.get(instance(name).part("limits")).await
    }

    /// Which limit bit, and how often.
    pub async fn get_instance_limit_hits(&self, name: &str) -> Result<LimitHits> {
        self.get(instance(name).part("limits").part("hits")).await
    }

    /// What a running instance waits for.
    pub async fn get_instance_pressure(&self, name: &str) -> Result<Pressure> {
        self.get(instance(name).part("pressure")).await
    }

    /// Where limits are that follow the need, and how they came there.
    pub async fn get_instance_autoscale(&self, name: &str) -> Result<Autoscaling> {
        self.get(instance(name).part("autoscale")).await
    }

    /// What every running instance uses and waits for.
    pub async fn get_load(&self) -> Result<Vec<InstanceLoad>> {
        self.get(Uri::new("/1.0/load")).await
    }

    /// Figures of all instances in the text form of OpenMetrics, as collectors read it.
    pub async fn get_metrics(&self) -> Result<String> {
        let bytes = self.get_bytes(Uri::new("/1.0/metrics")).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
