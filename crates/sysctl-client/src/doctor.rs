//! The host against what the daemon remembers.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use sysctl_api::DoctorReport;

use crate::client::Client;
use crate::error::Result;
use crate::uri::Uri;

const DOCTOR: &str = "/1.0/doctor";

/// How long a repair may take: it runs the loop over every instance.
const REPAIR: Duration = Duration::from_secs(600);

impl Client {
    /// What is orphaned, half-made or missing, and what limits the host has.
    pub async fn get_doctor(&self) -> Result<DoctorReport> {
        self.get(Uri::new(DOCTOR)).await
    }

    /// Puts right what can be, and looks again.
    pub async fn repair(&self) -> Result<DoctorReport> {
        let patient = self.clone().with_deadline(REPAIR);
        patient.send(Method::POST, Uri::new(DOCTOR), &json!({"repair": true}), None).await
    }
}
