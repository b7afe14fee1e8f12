//! Images and their aliases.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use engine::{Alias, ImageChoice, ImageWish};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use sysctl_api::{ImageAliasPost, ImagePost, ImagePut};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::filter::Filter;
use crate::render;
use crate::reply::{self, Answer};
use crate::request::{self, Caller, decode};

pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let filter = Filter::parse(caller.query.get("filter"))?;
    let recursion = caller.query.recursion();
    let here = app.engine.images().into_iter().map(|record| ImageChoice::Here(Box::new(record)));
    let mut items = Vec::new();
    for choice in here {
        let image = serde_json::to_value(render::image(&app.engine, &choice)).unwrap_or_default();
        if filter.matches(&image) {
            let path = || Value::from(format!("/1.0/images/{}", choice.fingerprint()));
            items.push(if recursion == 0 { path() } else { image });
        }
    }
    Ok(reply::sync(&items))
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(word): Path<String>) -> Answer {
    // Aliases have a path of their own.
    let choice = app.engine.image(&word).map_err(|_| ApiError::not_found(format!("Image {word:?} not found")))?;
    if !choice.fingerprint().to_string().starts_with(&word) && app.engine.alias(&word).is_ok() {
        return Err(ApiError::not_found(format!("Image {word:?} not found")));
    }
    let image = render::image(&app.engine, &choice);
    let tag = engine::etag::of(&(&image.public, &image.properties));
    Ok(reply::tagged(&image, &tag))
}

pub(crate) async fn put(State(app): State<Arc<App>>, Path(word): Path<String>, body: Bytes) -> Answer {
    let put: ImagePut = request::body(&body)?;
    app.engine.change_image(&word, put.properties, put.public).await?;
    Ok(reply::done())
}

pub(crate) async fn delete(State(app): State<Arc<App>>, Path(word): Path<String>) -> Answer {
    Ok(reply::operation(&app.engine.delete_image(&word).await?))
}

/// A new image: bytes of one file, two files as a form, or JSON that says what to make it from.
pub(crate) async fn post(State(app): State<Arc<App>>, caller: Caller, request: Request) -> Answer {
    let kind = caller.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    if kind.starts_with("multipart/form-data") {
        let form = Multipart::from_request(request, &()).await.map_err(|error| ApiError::bad(error.to_string()))?;
        return upload(&app, &caller, Some(form), None).await;
    }
    let raw = kind.starts_with("application/octet-stream") || caller.header("filename").is_some();
    let mut stream = request.into_body().into_data_stream();
    if raw {
        return upload(&app, &caller, None, Some(stream)).await;
    }
    // Clients do not always say that it is JSON: the first byte does.
    let first = stream.next().await.transpose().map_err(|error| ApiError::bad(error.to_string()))?.unwrap_or_default();
    if first.trim_ascii_start().first() != Some(&b'{') {
        let all = futures_util::stream::once(async { Ok::<_, axum::Error>(first) }).chain(stream);
        return upload_one(&app, &caller, Box::pin(all)).await;
    }
    let mut text = first.to_vec();
    while let Some(chunk) = stream.next().await {
        text.extend_from_slice(&chunk.map_err(|error| ApiError::bad(error.to_string()))?);
        if text.len() > super::MAX_BODY {
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB"));
        }
    }
    from_source(&app, request::body(&text.into())?).await
}

async fn from_source(app: &App, post: ImagePost) -> Answer {
    let source = post.source.unwrap_or_default();
    let word = [source.alias, source.fingerprint, source.name].into_iter().find(|word| !word.is_empty());
    match (source.kind.as_str(), word) {
        ("recipe", Some(word)) => {
            let wish = ImageWish {
                properties: post.properties,
                public: post.public,
                aliases: post.aliases.into_iter().map(|a| (a.name, a.description)).collect(),
                expected: None,
            };
            Ok(reply::operation(&app.engine.build_image(&word, wish).await?))
        }
        ("recipe", None) => Err(ApiError::bad("source: the alias of a recipe is needed")),
        (other, _) => Err(ApiError::bad(format!("source type {other:?} is not supported yet; send the image itself"))),
    }
}

/// What the headers say about an image that is sent.
fn wish(caller: &Caller) -> Result<ImageWish, ApiError> {
    let mut wish =
        ImageWish { public: caller.header("public").is_some_and(|v| v == "1" || v == "true"), ..ImageWish::default() };
    if let Some(expected) = caller.header("fingerprint") {
        let invalid = |_| ApiError::bad("X-Incus-fingerprint: 64 lower-case hexadecimal digits are expected");
        wish.expected = Some(expected.parse().map_err(invalid)?);
    }
    let pairs = |text: &str| -> Option<Vec<(String, String)>> {
        let part = |part: &str| part.split_once('=').and_then(|(k, v)| Some((decode(k)?, decode(v)?)));
        text.split('&').filter(|p| !p.is_empty()).map(part).collect()
    };
    let invalid = |name: &str| ApiError::bad(format!("X-Incus-{name}: KEY=VALUE pairs joined by & are expected"));
    if let Some(text) = caller.header("properties") {
        wish.properties = pairs(text).ok_or_else(|| invalid("properties"))?.into_iter().collect();
    }
    if let Some(text) = caller.header("aliases") {
        let aliases = pairs(text).ok_or_else(|| invalid("aliases"))?;
        wish.aliases =
            aliases.into_iter().filter(|(key, _)| key == "alias").map(|(_, name)| (name, String::new())).collect();
    }
    Ok(wish)
}

async fn upload(app: &Arc<App>, caller: &Caller, form: Option<Multipart>, raw: Option<BodyDataStream>) -> Answer {
    match (form, raw) {
        (Some(form), _) => upload_form(app, caller, form).await,
        (None, Some(raw)) => upload_one(app, caller, raw).await,
        (None, None) => Err(ApiError::bad("the request has no body")),
    }
}

/// An upload under way; thrown away when the client goes before its end.
struct Upload {
    app: Arc<App>,
    name: String,
    directory: PathBuf,
    finished: bool,
}

impl Upload {
    fn begin(app: &Arc<App>, caller: &Caller) -> Result<Upload, ApiError> {
        let name = Uuid::new_v4().simple().to_string();
        let directory = app.access.upload(&name)?;
        let upload = Upload { app: app.clone(), name, directory, finished: false };
        if let Some(file) = caller.header("filename") {
            std::fs::write(upload.directory.join("filename"), file.chars().take(255).collect::<String>())?;
        }
        Ok(upload)
    }

    async fn write<E: std::fmt::Display>(
        &self,
        file: &str,
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ApiError> {
        let mut target = tokio::fs::File::create(self.directory.join(file)).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| ApiError::bad(format!("the upload was cut off: {error}")))?;
            target.write_all(&chunk).await?;
        }
        target.flush().await?;
        Ok(())
    }

    async fn finish(mut self, wish: ImageWish) -> Answer {
        let operation = self.app.engine.import_image(self.name.clone(), wish).await?;
        // The operation's from now on.
        self.finished = true;
        Ok(reply::operation(&operation))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.finished {
            self.app.access.drop_upload(&self.name);
        }
    }
}

async fn upload_one<E: std::fmt::Display>(
    app: &Arc<App>,
    caller: &Caller,
    stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Answer {
    let wish = wish(caller)?;
    let upload = Upload::begin(app, caller)?;
    upload.write("image", stream).await?;
    upload.finish(wish).await
}

async fn upload_form(app: &Arc<App>, caller: &Caller, mut form: Multipart) -> Answer {
    let wish = wish(caller)?;
    let upload = Upload::begin(app, caller)?;
    let broken =
        |error: axum::extract::multipart::MultipartError| ApiError::bad(format!("the form is broken: {error}"));
    let mut parts = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = match field.name() {
            Some("metadata") => "metadata",
            Some("rootfs") => "rootfs",
            Some("rootfs.img") => return Err(ApiError::bad("images of virtual machines are not run here")),
            other => return Err(ApiError::bad(format!("part {other:?} is not expected: metadata, then rootfs"))),
        };
        if parts.contains(&name) {
            return Err(ApiError::bad(format!("part {name:?} came twice")));
        }
        upload.write(name, field).await?;
        parts.push(name);
    }
    if parts != ["metadata", "rootfs"] {
        return Err(ApiError::bad("two parts are expected: metadata, then rootfs"));
    }
    upload.finish(wish).await
}

pub(crate) async fn export(State(app): State<Arc<App>>, Path(word): Path<String>) -> Answer {
    let record = app.engine.here(&word)?;
    let facts = &record.facts;
    let files = app.access.image_files(facts);
    let fingerprint = facts.fingerprint.to_string();
    let builder = Response::builder().header("x-incus-type", "incus").header("x-lxd-type", "lxd");
    let failed = |error: axum::http::Error| ApiError::bad(error.to_string());
    if let [file] = files.as_slice() {
        let (file, extension) = open(file).await?;
        let length = file.metadata().await?.len();
        let name = format!("{fingerprint}{extension}");
        return builder
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .header(header::CONTENT_DISPOSITION, format!("inline;filename=\"{name}\""))
            .body(Body::from_stream(tokio_util::io::ReaderStream::new(file)))
            .map_err(failed);
    }
    // Two files as a form, as they were sent.
    let boundary = Uuid::new_v4().simple().to_string();
    let mut streams: Vec<std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>> = Vec::new();
    for ((name, prefix), file) in [("metadata", "meta-"), ("rootfs", "")].into_iter().zip(&files) {
        let (file, extension) = open(file).await?;
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{prefix}{fingerprint}{extension}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        streams.push(text(head));
        streams.push(Box::pin(tokio_util::io::ReaderStream::new(file)));
        streams.push(text("\r\n".into()));
    }
    streams.push(text(format!("--{boundary}--\r\n")));
    builder
        .header(header::CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
        .body(Body::from_stream(futures_util::stream::iter(streams).flatten()))
        .map_err(failed)
}

/// Opens a file of an image, with the ending that its first bytes deserve: clients save it under that name.
async fn open(path: &std::path::Path) -> Result<(tokio::fs::File, &'static str), ApiError> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    const FORMATS: [(&[u8], &str); 7] = [
        (&[0x28, 0xb5, 0x2f, 0xfd], ".tar.zst"),
        (&[0x1f, 0x8b], ".tar.gz"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], ".tar.xz"),
        (b"BZh", ".tar.bz2"),
        (&[0x5d, 0, 0], ".tar.lzma"),
        (b"hsqs", ".squashfs"),
        (b"", ".tar"),
    ];
    let mut file = tokio::fs::File::open(path).await?;
    let mut first = Vec::new();
    (&mut file).take(8).read_to_end(&mut first).await?;
    file.rewind().await?;
    let format = FORMATS.iter().find(|(magic, _)| first.starts_with(magic));
    Ok((file, format.map_or("", |(_, extension)| extension)))
}

fn text(text: String) -> std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>> {
    Box::pin(futures_util::stream::once(async move { Ok(Bytes::from(text)) }))
}

pub(crate) async fn aliases(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let aliases = app.engine.aliases();
    if caller.query.recursion() == 0 {
        let paths: Vec<String> = aliases.iter().map(|alias| format!("/1.0/images/aliases/{}", alias.name)).collect();
        return Ok(reply::sync(&paths));
    }
    Ok(reply::sync(&aliases.iter().map(render::alias).collect::<Vec<_>>()))
}

pub(crate) async fn alias(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    let alias = render::alias(&app.engine.alias(&name)?);
    let tag = engine::etag::of(&alias);
    Ok(reply::tagged(&alias, &tag))
}

fn fingerprint(app: &App, word: &str) -> Result<model::Fingerprint, ApiError> {
    Ok(app.engine.image(word)?.fingerprint())
}

pub(crate) async fn create_alias(State(app): State<Arc<App>>, body: Bytes) -> Answer {
    let post: ImageAliasPost = request::body(&body)?;
    let target = fingerprint(&app, &post.target)?;
    let name = post.name.clone();
    app.engine.create_alias(Alias { name: post.name, description: post.description, target }).await?;
    Ok(reply::created(&format!("/1.0/images/aliases/{name}")))
}

pub(crate) async fn put_alias(State(app): State<Arc<App>>, Path(name): Path<String>, body: Bytes) -> Answer {
    let put: ImageAliasPost = request::body(&body)?;
    let target = if put.target.is_empty() { None } else { Some(fingerprint(&app, &put.target)?) };
    app.engine.change_alias(&name, target, Some(put.description)).await?;
    Ok(reply::done())
}

pub(crate) async fn delete_alias(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer {
    app.engine.delete_alias(&name).await?;
    Ok(reply::done())
}
