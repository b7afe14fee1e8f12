//! Bad input and bad days: each says what, why and what to do, has the right status, and leaves nothing.

#![allow(missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use support::Daemon;

/// What is asked, and what the answer must be: status and words in it.
struct Case {
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    words: &'static [&'static str],
}

const fn case(
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    words: &'static [&'static str],
) -> Case {
    Case { method, path, body, status, words }
}

const REFUSED: &[Case] = &[
    case("GET", "/1.0/nowhere", "", 404, &["not found"]),
    case("GET", "/2.0", "", 404, &["not found"]),
    case("POST", "/1.0/instances/web1", "{}", 501, &[]),
    case("PATCH", "/1.0/operations", "{}", 501, &[]),
    case("GET", "/1.0/instances/nobody", "", 404, &["nobody", "not found"]),
    case("DELETE", "/1.0/instances/nobody", "", 404, &["nobody"]),
    case("GET", "/1.0/instances/..%2f..%2fetc", "", 404, &[]),
    case("POST", "/1.0/instances", "{", 400, &["JSON"]),
    case("POST", "/1.0/instances", "[]", 400, &[]),
    case("POST", "/1.0/instances", r#"{"name": 5}"#, 400, &["name", "string"]),
    case("POST", "/1.0/instances", r#"{"name":"-x","source":{"type":"none"}}"#, 400, &["-x"]),
    case("POST", "/1.0/instances", r#"{"name":"a/b","source":{"type":"none"}}"#, 400, &["a/b"]),
    case("POST", "/1.0/instances", r#"{"name":"ünïcode","source":{"type":"none"}}"#, 400, &[]),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"web1","source":{"type":"image","alias":"bb"}}"#,
        409,
        &["web1", "exists"],
    ),
    case("POST", "/1.0/instances", r#"{"name":"new","source":{"type":"image","alias":"no-such"}}"#, 404, &["no-such"]),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"type":"virtual-machine"}"#,
        400,
        &["virtual"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"config":{"limits.memroy":"1GiB"}}"#,
        400,
        &["limits.memroy", "limits.memory"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"config":{"limits.memory":"lots"}}"#,
        400,
        &["limits.memory", "lots", "512MiB"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"config":{"raw.lxc":"x"}}"#,
        400,
        &["raw.lxc", "of its own"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"config":{"security.privileged":"true"}}"#,
        400,
        &["security.privileged"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"profiles":["none"]}"#,
        404,
        &["none"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"devices":{"root":{"type":"disk","path":"/","pool":"lake"}}}"#,
        404,
        &["lake"],
    ),
    case(
        "POST",
        "/1.0/instances",
        r#"{"name":"new","source":{"type":"image","alias":"bb"},"devices":{"eth0":{"type":"nic","network":"web"}}}"#,
        404,
        &["web"],
    ),
    case(
        "POST",
        "/1.0/instances?project=none",
        r#"{"name":"new","source":{"type":"image","alias":"bb"}}"#,
        404,
        &["none"],
    ),
    case("PUT", "/1.0/instances/web1/state", r#"{"action":"start"}"#, 400, &["already running"]),
    case("PUT", "/1.0/instances/off/state", r#"{"action":"stop"}"#, 400, &["already stopped"]),
    case("PUT", "/1.0/instances/off/state", r#"{"action":"freeze"}"#, 400, &["running"]),
    case("PUT", "/1.0/instances/web1/state", r#"{"action":"dance"}"#, 400, &["dance", "start"]),
    case("DELETE", "/1.0/instances/web1", "", 400, &["running", "stop it first"]),
    case("POST", "/1.0/instances/off/exec", r#"{"command":["true"]}"#, 400, &["not running"]),
    case("POST", "/1.0/instances/web1/exec", r#"{"command":[]}"#, 400, &["command"]),
    case("PATCH", "/1.0/instances/web1", r#"{"config":{"limits.cpu":"many"}}"#, 400, &["limits.cpu", "many"]),
    case("GET", "/1.0/images/ffff", "", 404, &["not found"]),
    case("POST", "/1.0/images/aliases", r#"{"name":"x","target":"ffff"}"#, 404, &[]),
    case("GET", "/1.0/profiles/none", "", 404, &["none"]),
    case("DELETE", "/1.0/profiles/default", "", 400, &["default"]),
    case("GET", "/1.0/networks/none", "", 404, &["none"]),
    case("GET", "/1.0/storage-pools/none", "", 404, &["none"]),
    case("GET", "/1.0/projects/none", "", 404, &["none"]),
    case("GET", "/1.0/operations/3fa85f64-5717-4562-b3fc-2c963f66afa6", "", 404, &["not found"]),
    case("GET", "/1.0/operations/x", "", 404, &[]),
    case("GET", "/1.0/instances?filter=name%20eq", "", 400, &["filter"]),
];

#[tokio::test]
async fn everything_that_is_wrong_is_refused_in_words() {
    let daemon = Daemon::new("refused");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    daemon.launch("off", &[]).await;
    daemon.change("off", "stop", true).await;
    let mut wrong = Vec::new();
    for case in REFUSED {
        let body = (!case.body.is_empty()).then_some(case.body.as_bytes());
        let answer = daemon.client.query(case.method, case.path, body).await.expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let envelope: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let code = envelope["error_code"].as_u64();
        let said = envelope["error"].as_str().unwrap_or_default();
        let has_words = case.words.iter().all(|word| said.to_lowercase().contains(&word.to_lowercase()));
        if answer.status != case.status || code != Some(case.status.into()) || said.is_empty() || !has_words {
            wrong.push(format!("{} {} {}: {} {text}", case.method, case.path, case.body, answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(daemon.client.get_instances(&Default::default()).await.expect("list").len(), 2);
    daemon.finish().await;
}

#[tokio::test]
async fn what_is_too_large_or_stale_is_refused() {
    let daemon = Daemon::new("large");
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    let large = format!(r#"{{"description":"{}"}}"#, "x".repeat(2_000_000));
    let answer = daemon.client.query("PATCH", "/1.0/instances/web1", Some(large.as_bytes())).await.expect("an answer");
    assert_eq!(answer.status, 413);
    let error = daemon.client.patch_instance("web1", &support::patch(&[("user.a", "b")]), Some("\"0123\"")).await;
    assert_eq!(error.expect_err("stale").status(), Some(412));
    let tag = daemon.client.get_instance("web1").await.expect("web1").etag;
    let accepted = daemon.client.patch_instance("web1", &support::patch(&[("user.a", "b")]), Some(&tag)).await;
    daemon.client.finish(&accepted.expect("fresh")).await.expect("done");
    daemon.finish().await;
}

#[tokio::test]
async fn whoever_sends_all_before_reading_has_the_refusal_all_the_same() {
    let daemon = Daemon::new("early");
    let body = vec![0u8; 16 << 20];
    for header in ["X-Incus-fingerprint: none", "X-Incus-properties: none"] {
        let mut stream = UnixStream::connect(daemon.client.socket()).expect("connect");
        let length = body.len();
        write!(
            stream,
            "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n{header}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
        .and_then(|()| stream.write_all(&body))
        .unwrap_or_else(|error| panic!("{header}: {error}"));
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        assert!(line.starts_with("HTTP/1.1 400 "), "{header}: {line}");
    }
    daemon.finish().await;
}

#[tokio::test]
async fn an_archive_that_is_none_is_refused_and_leaves_nothing() {
    let daemon = Daemon::new("archive");
    let bytes = b"this is no archive at all, whatever its name says".repeat(100);
    for upload in [bytes.clone(), Vec::new(), bytes[..10].to_vec()] {
        let reader = Box::new(std::io::Cursor::new(upload));
        let import = daemon.client.import_image(sysctl_client::ImageUpload::Unified(reader), &Default::default()).await;
        let error = match import {
            Ok(operation) => daemon.client.finish(&operation).await.expect_err("no archive"),
            Err(error) => error,
        };
        assert!(!error.to_string().is_empty());
    }
    assert!(daemon.client.get_images(&Default::default()).await.expect("images").iter().all(|image| image.size == 0));
    daemon.finish().await;
}

#[tokio::test]
async fn a_start_that_fails_names_its_stage_and_leaves_nothing() {
    let mut daemon = Daemon::with("stages", &[]);
    daemon.import_busybox().await;
    daemon.terminate();
    for stage in ["stage", "clone", "root", "tree", "init", "confine", "exec"] {
        daemon.set_environment("SYSCTL_FAIL_LAUNCH", stage);
        daemon.start();
        let operation = daemon.client.create_instance(&support::post("web1", &[])).await.expect("accepted");
        let error = daemon.client.finish(&operation).await.expect_err(stage).to_string();
        assert!(error.contains(stage) && error.contains("failpoint"), "{stage}: {error}");
        assert_eq!(daemon.status("web1").await, "Stopped", "{stage}");
        daemon.healthy().await;
        let again = daemon.try_change("web1", "start", false).await.expect_err(stage).to_string();
        assert!(again.contains(stage), "{stage}: {again}");
        daemon.try_delete("web1").await.expect("deleted");
        daemon.healthy().await;
        daemon.terminate();
    }
    daemon.set_environment("SYSCTL_FAIL_LAUNCH", "");
    daemon.start();
    daemon.launch("web1", &[]).await;
    daemon.finish().await;
}

#[tokio::test]
async fn each_way_of_overlay_gives_a_writable_root_that_lasts() {
    for way in ["descriptors", "attached-append", "attached-string"] {
        let daemon = Daemon::with(way, &[("SYSCTL_OVERLAY", way)]);
        daemon.import_busybox().await;
        daemon.launch("web1", &[]).await;
        daemon.print("web1", &["sh", "-c", "echo mine > /root/x && rm /etc/profile && mkdir -p /new/dir"]).await;
        daemon.change("web1", "restart", true).await;
        assert_eq!(
            daemon.print("web1", &["sh", "-c", "cat /root/x; ls -d /new/dir; test -e /etc/profile || echo gone"]).await,
            "mine\n/new/dir\ngone"
        );
        daemon.launch("web2", &[]).await;
        assert_eq!(daemon.exec("web2", &["cat", "/root/x"]).await.code, 1);
        daemon.finish().await;
    }
}

/// A daemon whose busybox recipe is changed.
fn with_recipe(what: &str, change: impl Fn(&str) -> String) -> (testkit::Scratch, Daemon) {
    let recipes = testkit::Scratch::new(what);
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/busybox.toml");
    let text = change(&std::fs::read_to_string(recipe).expect("the recipe"));
    std::fs::write(recipes.join("busybox.toml"), text).expect("write");
    let directory = recipes.path().display().to_string();
    let daemon = Daemon::with(what, &[("SYSCTL_IMAGES_DIR", &directory)]);
    (recipes, daemon)
}

#[tokio::test]
async fn a_mirror_that_does_not_answer_or_signs_wrongly_is_told() {
    const MIRROR: (&str, &str) = ("http://deb.debian.org", "http://127.0.0.1:9");
    const KEYRING: (&str, &str) = ("debian-archive-keyring.gpg", "debian-archive-removed-keys.gpg");
    for (what, (right, wrong), words) in [("silent", MIRROR, "127.0.0.1"), ("forged", KEYRING, "NO_PUBKEY")] {
        let (_recipes, daemon) = with_recipe(what, |text| text.replace(right, wrong));
        let operation = daemon.client.build_image("busybox", &[]).await.expect("accepted");
        let error = daemon.client.finish(&operation).await.expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
        // A launch of it fails in the same words, and leaves no instance.
        let mut post = support::post("web1", &[]);
        post.source.alias = "busybox".into();
        let operation = daemon.client.create_instance(&post).await.expect("accepted");
        let error = daemon.client.finish(&operation).await.expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
        assert!(daemon.client.get_instances(&Default::default()).await.expect("list").is_empty());
        daemon.finish().await;
    }
}

#[tokio::test]
async fn a_full_disk_ends_an_unpack_in_words_and_leaves_room_for_the_rest() {
    let disk = testkit::mount::SmallDisk::new("full", 24);
    let daemon = Daemon::on(&disk.path());
    daemon.import_busybox().await;
    daemon.launch("web1", &[]).await;
    // Larger than the disk when it is unpacked: zeros compress well.
    let work = testkit::Scratch::new("large-image");
    let archive = support::archive_of_zeros(&work, 64);
    let error = daemon.import(&archive, &[]).await.expect_err("full").to_string();
    assert!(error.contains("No space left") && error.contains("free some space"), "{error}");
    assert_eq!(daemon.print("web1", &["echo", "alive"]).await, "alive");
    daemon.launch("web2", &[]).await;
    daemon.change("web2", "stop", true).await;
    daemon.try_delete("web2").await.expect("deleted");
    daemon.finish().await;
}
