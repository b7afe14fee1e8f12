//! The daemon killed in the middle of what it does, at many moments: nothing is half-made, nothing is left.

#![allow(missing_docs)]

mod support;

use std::time::Duration;

use support::{Daemon, post};

/// Moments, in steps of this, at which it is killed: a launch takes some 20 ms here.
const STEP: Duration = Duration::from_micros(900);
const MOMENTS: u32 = 32;

/// Kills the daemon `after` so long in the middle of what `act` does, and starts it again.
async fn kill_amid(daemon: &mut Daemon, after: Duration, act: impl AsyncFnOnce(&Daemon)) {
    // Whatever it has come to by then.
    let _ = tokio::time::timeout(after, act(daemon)).await;
    daemon.kill();
    daemon.start();
}

#[tokio::test]
async fn a_launch_is_done_or_was_never_asked_for() {
    let mut daemon = Daemon::new("amid-launch");
    daemon.import_busybox().await;
    daemon.launch("other", &[]).await;
    let bystander = daemon.init_pid("other").await;
    let (mut made, mut never) = (0, 0);
    for moment in 0..MOMENTS {
        kill_amid(&mut daemon, STEP * moment, async |daemon| {
            if let Ok(operation) = daemon.client.create_instance(&post("web1", &[])).await {
                let _ = daemon.client.finish(&operation).await;
            }
        })
        .await;
        daemon.healthy().await;
        if daemon.client.get_instance("web1").await.is_ok() {
            made += 1;
            daemon.until_status("web1", "Running").await;
            assert_eq!(daemon.print("web1", &["echo", "whole"]).await, "whole");
        } else {
            never += 1;
            daemon.launch("web1", &[]).await;
        }
        daemon.change("web1", "stop", true).await;
        daemon.try_delete("web1").await.expect("deleted");
        assert_eq!(daemon.init_pid("other").await, bystander, "somebody else's guest was disturbed");
    }
    eprintln!(
        "figure: daemon killed at {MOMENTS} moments of a launch: {made} gone through with, {never} never made, violations 0"
    );
    daemon.finish().await;
}

#[tokio::test]
async fn a_stop_and_a_delete_end_as_wished() {
    let mut daemon = Daemon::new("amid-stop");
    daemon.import_busybox().await;
    for moment in 0..MOMENTS / 2 {
        daemon.launch("web1", &[]).await;
        kill_amid(&mut daemon, STEP * moment, async |daemon| {
            let _ = daemon.try_change("web1", "stop", true).await;
        })
        .await;
        daemon.healthy().await;
        if daemon.status("web1").await != "Stopped" {
            assert_eq!(daemon.print("web1", &["echo", "whole"]).await, "whole");
            daemon.change("web1", "stop", true).await;
        }
        kill_amid(&mut daemon, STEP * moment / 2, async |daemon| {
            let _ = daemon.try_delete("web1").await;
        })
        .await;
        daemon.healthy().await;
        if daemon.client.get_instance("web1").await.is_ok() {
            daemon.try_delete("web1").await.expect("deleted");
        }
    }
    eprintln!("figure: daemon killed at {MOMENTS} moments, half of stops and half of deletes: violations 0");
    daemon.finish().await;
}

#[tokio::test]
async fn an_import_is_whole_or_gone() {
    let mut daemon = Daemon::new("amid-import");
    let archive = support::busybox_archive().await;
    for moment in 0..MOMENTS / 2 {
        kill_amid(&mut daemon, STEP * 3 * moment, async |daemon| {
            let file = Box::new(tokio::fs::File::open(&archive).await.expect("open"));
            let (upload, words) = (sysctl_client::ImageUpload::Unified(file), Default::default());
            if let Ok(operation) = daemon.client.import_image(upload, &words).await {
                let _ = daemon.client.finish(&operation).await;
            }
        })
        .await;
        daemon.healthy().await;
        let images = daemon.client.get_images(&Default::default()).await.expect("images");
        for image in images.iter().filter(|image| image.size > 0) {
            let operation = daemon.client.delete_image(&image.fingerprint).await.expect("accepted");
            daemon.client.finish(&operation).await.expect("deleted");
        }
    }
    daemon.finish().await;
}
