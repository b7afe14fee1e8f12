//! Calls that are a question and an answer.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod fake;

use std::time::Duration;

use fake::{Fake, error, operation, sync};
use serde_json::json;
use sysctl_api::{InstancePut, InstancesPost, StatePut};
use sysctl_client::{Client, Error, ImageUpload, ImageWords, ListOptions};

#[tokio::test]
async fn a_listing_names_what_it_wants_and_is_decoded() {
    let fake = Fake::start(|_, _| async { sync(json!([{"name": "web1", "status": "Running", "profiles": null}])) });
    let client = fake.client.clone().with_project(Some("p q".into()));
    let options = ListOptions { filter: "status eq running".into(), all_projects: false };
    let instances = client.get_instances(&options).await.expect("instances");
    assert_eq!((instances[0].name.as_str(), instances[0].status.as_str()), ("web1", "Running"));
    assert_eq!(fake.lines(), ["GET /1.0/instances?recursion=1&filter=status%20eq%20running&project=p%20q"]);
}

#[tokio::test]
async fn an_error_envelope_becomes_an_error_with_its_status() {
    let fake = Fake::start(|_, _| async { error(404, "Instance not found") });
    let failed = fake.client.get_instance("web1").await.expect_err("an error");
    assert_eq!((failed.status(), failed.to_string().as_str()), (Some(404), "Instance not found"));
    assert!(matches!(failed, Error::Api { act, .. } if act == "GET /1.0/instances/web1"));
}

#[tokio::test]
async fn an_entity_tag_goes_there_and_back() {
    let fake = Fake::start(|seen, _| async move {
        if seen.line.starts_with("PUT") {
            return error(412, "ETag doesn't match: a vs b");
        }
        let mut response = sync(json!({"name": "web1"}));
        response.headers_mut().insert("etag", "\"abc\"".parse().expect("a value"));
        response
    });
    let tagged = fake.client.get_instance("web1").await.expect("an instance");
    assert_eq!(tagged.etag, "\"abc\"");
    let put = InstancePut { config: Some([("limits.cpu".into(), "2".into())].into()), ..InstancePut::default() };
    let failed = fake.client.update_instance("web1", &put, Some(&tagged.etag)).await.expect_err("a conflict");
    assert_eq!(failed.status(), Some(412));
    assert_eq!(fake.seen()[1].header("if-match"), Some("\"abc\""));
    assert_eq!(fake.seen()[1].json()["config"]["limits.cpu"], "2");
}

#[tokio::test]
async fn an_operation_is_waited_for_and_its_failure_is_an_error() {
    let fake = Fake::start(|seen, _| async move {
        match seen.line.as_str() {
            "POST /1.0/instances" => operation(
                json!({"id": "good", "status_code": 103, "resources": {"instances": ["/1.0/instances/web1"]}}),
            ),
            "GET /1.0/operations/good/wait" => sync(json!({"id": "good", "status": "Success", "status_code": 200})),
            "PUT /1.0/instances/web1/state" => operation(json!({"id": "bad", "status_code": 103})),
            "GET /1.0/operations/bad/wait" => sync(
                json!({"id": "bad", "description": "Starting instance", "status": "Failure", "status_code": 400, "err": "no image"}),
            ),
            other => error(404, other),
        }
    });
    let post = InstancesPost { name: "web1".into(), ..InstancesPost::default() };
    let started = fake.client.create_instance(&post).await.expect("an operation");
    assert_eq!(started.resources["instances"], ["/1.0/instances/web1"]);
    assert_eq!(fake.client.finish(&started).await.expect("success").status_code, 200);
    let put = StatePut { action: "start".into(), ..StatePut::default() };
    let started = fake.client.update_instance_state("web1", &put).await.expect("an operation");
    match fake.client.finish(&started).await.expect_err("a failure") {
        Error::Operation { description, message, status_code, .. } => {
            assert_eq!((description.as_str(), message.as_str(), status_code), ("Starting instance", "no image", 400));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plan_is_asked_for_by_the_query_and_comes_at_once() {
    let fake = Fake::start(|_, _| async { sync(json!([{"step": "Spawn", "text": "start its keeper", "detail": {}}])) });
    let steps = fake.client.plan_delete_instance("web1").await.expect("steps");
    assert_eq!((steps[0].step.as_str(), steps[0].text.as_str()), ("Spawn", "start its keeper"));
    assert_eq!(fake.lines(), ["DELETE /1.0/instances/web1?plan=1"]);
}

#[tokio::test]
async fn nobody_at_the_socket_and_nobody_answering_are_told_apart() {
    let client = Client::new("/nonexistent/unix.socket");
    let failed = client.get_server().await.expect_err("no daemon");
    assert!(matches!(failed, Error::Connect { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    let fake = Fake::start(|_, _| std::future::pending());
    let hasty = fake.client.clone().with_deadline(Duration::from_millis(1));
    assert!(matches!(hasty.get_server().await, Err(Error::Deadline { .. })));
}

#[tokio::test]
async fn one_file_is_sent_as_it_is_with_what_is_said_about_it() {
    let fake = Fake::start(|_, _| async { operation(json!({"id": "x", "status_code": 103})) });
    let words = ImageWords {
        filename: "a.tar.xz".into(),
        aliases: vec!["mine/1".into(), "b&c".into()],
        properties: [("os".into(), "My OS".into())].into(),
        public: true,
        fingerprint: None,
    };
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let upload = ImageUpload::Unified(Box::new(std::io::Cursor::new(bytes.clone())));
    fake.client.import_image(upload, &words).await.expect("an operation");
    let seen = &fake.seen()[0];
    assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
    assert_eq!(seen.header("x-incus-aliases"), Some("alias=mine%2F1&alias=b%26c"));
    assert_eq!(seen.header("x-incus-properties"), Some("os=My%20OS"));
    assert_eq!((seen.header("x-incus-public"), seen.header("x-incus-fingerprint")), (Some("1"), None));
    assert!(seen.body == bytes, "the bytes arrived changed");
}

#[tokio::test]
async fn two_files_are_sent_as_a_form() {
    let fake = Fake::start(|_, _| async { operation(json!({"id": "x", "status_code": 103})) });
    let reader = |text: &'static str| Box::new(std::io::Cursor::new(text));
    let upload = ImageUpload::Split { metadata: reader("META"), rootfs: reader("ROOT") };
    fake.client.import_image(upload, &ImageWords::default()).await.expect("an operation");
    let seen = &fake.seen()[0];
    let kind = seen.header("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").expect("a form");
    let part = |name: &str, text: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n{text}\r\n"
        )
    };
    let expected = format!("{}{}--{boundary}--\r\n", part("metadata", "META"), part("rootfs", "ROOT"));
    assert_eq!(String::from_utf8_lossy(&seen.body), expected);
}

#[tokio::test]
async fn a_raw_query_returns_answers_of_any_status() {
    let fake = Fake::start(|_, _| async { error(501, "not implemented") });
    let answer = fake.client.query("PATCH", "/1.0/x?y=z", Some(b"{}")).await.expect("an answer");
    assert_eq!(answer.status, 501);
    assert_eq!(answer.success("PATCH /1.0/x").expect_err("an error").to_string(), "not implemented");
    assert_eq!(fake.lines(), ["PATCH /1.0/x?y=z"]);
}
