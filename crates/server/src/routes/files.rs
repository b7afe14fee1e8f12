//! Files of instances: a raw SFTP stream, and single files over HTTP.

use std::sync::Arc;

use ::sftp::{Attributes, Code, OpenFlags};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::App;
use crate::error::ApiError;
use crate::reply::{self, Answer};
use crate::request::Caller;
use crate::sftp::{Client, Error, Handle};

/// A stream that speaks SFTP over an instance's files.
async fn stream(app: &App, caller: &Caller, name: &str) -> Result<UnixStream, ApiError> {
    let view = app.engine.instance(&caller.project()?, name)?;
    let record = &view.record;
    let boot = view.pid().and(record.wish.power.boot()).map(|generation| model::Boot { id: record.id, generation });
    let root = (record.id, record.wish.root, record.wish.source);
    let stream = app.access.files(boot, root, &record.pool, record.wish.ids).await?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

pub(crate) async fn sftp(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    mut request: Request,
) -> Answer {
    let wanted = caller.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !wanted.is_some_and(|value| value.eq_ignore_ascii_case("sftp")) {
        return Err(ApiError::bad("Missing or invalid upgrade header: \"Upgrade: sftp\" is expected"));
    }
    let mut stream = stream(&app, &caller, &name).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // Either side may hang up at any time; the helper ends with its socket.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "sftp")
        .body(Body::empty())
        .map_err(|error| ApiError::bad(error.to_string()))
}

/// A session, and the path that the request is about.
async fn session(app: &App, caller: &Caller, name: &str) -> Result<(Client, String), ApiError> {
    let path = caller.query.get("path").ok_or_else(|| ApiError::bad("Missing path argument"))?;
    if path.len() > ::sftp::MAX_PATH || path.contains('\0') {
        return Err(ApiError::bad("the path is too long, or holds a NUL byte"));
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let client = Client::new(stream(app, caller, name).await?).await?;
    Ok((client, path))
}

/// The kinds of files that there are names for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Symlink,
}

impl Kind {
    const NAMES: [(Kind, &'static str); 3] =
        [(Kind::File, "file"), (Kind::Directory, "directory"), (Kind::Symlink, "symlink")];

    fn of(attributes: &Attributes) -> Result<Kind, ApiError> {
        match attributes.mode.unwrap_or_default() & 0o170_000 {
            0o100_000 => Ok(Kind::File),
            0o040_000 => Ok(Kind::Directory),
            0o120_000 => Ok(Kind::Symlink),
            _ => Err(ApiError::bad("Bad file type: devices, pipes and sockets are not served")),
        }
    }

    fn named(name: &str) -> Option<Kind> {
        Kind::NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    fn name(self) -> &'static str {
        Kind::NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// The attributes as headers, in both families.
fn headers(attributes: &Attributes, kind: Kind) -> HeaderMap {
    let (uid, gid) = attributes.owner.unwrap_or_default();
    let modified = jiff::Timestamp::from_second(i64::from(attributes.times.unwrap_or_default().1)).unwrap_or_default();
    let values = [
        ("uid", uid.to_string()),
        ("gid", gid.to_string()),
        ("mode", format!("{:04o}", attributes.mode.unwrap_or_default() & 0o777)),
        ("modified", modified.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
        ("type", kind.name().to_owned()),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in values {
        for family in ["incus", "lxd"] {
            let name = HeaderName::try_from(format!("x-{family}-{name}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(&value)) {
                headers.insert(name, value);
            }
        }
    }
    headers
}

pub(crate) async fn get(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (mut client, path) = session(&app, &caller, &name).await?;
    let attributes = client.lstat(&path).await?;
    let kind = Kind::of(&attributes)?;
    match kind {
        Kind::Directory => Ok((headers(&attributes, kind), reply::sync(&client.names(&path).await?)).into_response()),
        Kind::Symlink => {
            let target = target(&mut client, &path).await?;
            Ok((headers(&attributes, kind), content_type(), target).into_response())
        }
        Kind::File => {
            let handle = client.open(&path, OpenFlags { read: true, ..OpenFlags::default() }).await?;
            // Of what was opened: the path may lead to another file by now.
            let attributes = client.fstat(&handle).await?;
            let size = attributes.size.unwrap_or_default();
            let length = [(header::CONTENT_LENGTH, size.to_string())];
            Ok((headers(&attributes, kind), content_type(), length, content(client, handle, size)).into_response())
        }
    }
}

fn content_type() -> [(HeaderName, &'static str); 1] {
    [(header::CONTENT_TYPE, "application/octet-stream")]
}

pub(crate) async fn head(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (mut client, path) = session(&app, &caller, &name).await?;
    let attributes = client.lstat(&path).await?;
    let kind = Kind::of(&attributes)?;
    let mut response = (headers(&attributes, kind), Body::empty()).into_response();
    if kind == Kind::File {
        response.headers_mut().insert(header::CONTENT_LENGTH, attributes.size.unwrap_or_default().into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
    Ok(response)
}

/// Where a link points to, as an absolute path of the instance's.
async fn target(client: &mut Client, path: &str) -> Result<Vec<u8>, ApiError> {
    let target = client.name(&::sftp::Request::Readlink { path: path.as_bytes() }).await?;
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let absolute = if target.starts_with(b"/") { target } else { [directory.as_bytes(), b"/", &target].concat() };
    Ok(client.name(&::sftp::Request::Realpath { path: &absolute }).await?)
}

/// The first `size` bytes of a file. One that shrinks meanwhile breaks the connection off, so that nobody takes a part for
/// the whole.
fn content(client: Client, handle: Handle, size: u64) -> Body {
    let start = (client, handle, 0u64);
    Body::from_stream(futures_util::stream::unfold(start, move |(mut client, handle, offset)| async move {
        if offset >= size {
            return None;
        }
        let data = match client.read(&handle, offset).await {
            Ok([]) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            Ok(data) => {
                let rest = usize::try_from(size - offset).unwrap_or(usize::MAX);
                Ok(Bytes::copy_from_slice(&data[..data.len().min(rest)]))
            }
            Err(error) => Err(std::io::Error::other(format!("{error:?}"))),
        };
        let offset = offset + data.as_ref().map_or(0, |data: &Bytes| data.len() as u64);
        // After an error there is nothing more to say.
        let next = if data.is_err() { size } else { offset };
        Some((data, (client, handle, next)))
    }))
}

/// What the headers of a POST ask for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    kind: Kind,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    append: bool,
}

impl Wanted {
    fn read(caller: &Caller) -> Result<Wanted, ApiError> {
        let id = |name: &str| match caller.header(name).map(str::parse::<i64>) {
            None | Some(Ok(-1)) => Ok(None),
            Some(Ok(id)) => u32::try_from(id).map(Some).map_err(|_| ApiError::bad(format!("Bad {name}: {id}"))),
            Some(Err(_)) => Err(ApiError::bad(format!("Bad {name}: a number is expected"))),
        };
        let (uid, gid) = (id("uid")?, id("gid")?);
        let name = caller.header("type").unwrap_or("file");
        let write = caller.header("write").unwrap_or("overwrite");
        Ok(Wanted {
            kind: Kind::named(name).ok_or_else(|| ApiError::bad(format!("Bad file type: {name}")))?,
            // The number -1 leaves the other one as it is.
            owner: (uid.is_some() || gid.is_some()).then(|| (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX))),
            mode: caller.header("mode").map(mode).transpose()?,
            append: match write {
                "append" => true,
                "overwrite" => false,
                other => return Err(ApiError::bad(format!("Bad file write mode: {other}"))),
            },
        })
    }

    fn attributes(&self, default: Option<u32>) -> Attributes {
        Attributes { owner: self.owner, mode: self.mode.or(default), ..Attributes::default() }
    }
}

/// A mode, written as Go reads numbers: `0644` and `0o644` are octal, `420` is not.
fn mode(text: &str) -> Result<u32, ApiError> {
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
    let number = match octal {
        Some(digits) => u32::from_str_radix(digits, 8),
        None => text.parse(),
    };
    match number {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(ApiError::bad(format!("Bad file mode: {text}"))),
    }
}

pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    caller: Caller,
    request: Request,
) -> Answer {
    let wanted = Wanted::read(&caller)?;
    let (mut client, path) = session(&app, &caller, &name).await?;
    match wanted.kind {
        Kind::File => write(&mut client, &path, &wanted, request.into_body()).await?,
        Kind::Directory => {
            if !client.exists(&path).await? {
                let attributes = Attributes { mode: wanted.mode, ..Attributes::default() };
                client.done(&::sftp::Request::Mkdir { path: path.as_bytes(), attributes }).await?;
                let attributes = wanted.attributes(Some(0o755));
                client.done(&::sftp::Request::Setstat { path: path.as_bytes(), attributes }).await?;
            }
        }
        Kind::Symlink => {
            let target = axum::body::to_bytes(request.into_body(), ::sftp::MAX_PATH)
                .await
                .map_err(|_| ApiError::bad("the target of the link is too long"))?;
            if target.is_empty() || target.contains(&0) {
                return Err(ApiError::bad("the body is no target of a link"));
            }
            let path = path.as_bytes();
            // Made before by the same request: then it is done.
            if !client.name(&::sftp::Request::Readlink { path }).await.is_ok_and(|now| now == target) {
                client.done(&::sftp::Request::Symlink { target: &target, path }).await?;
            }
        }
    }
    Ok(reply::done())
}

async fn write(client: &mut Client, path: &str, wanted: &Wanted, body: Body) -> Result<(), ApiError> {
    let exists = client.exists(path).await?;
    let flags = OpenFlags { write: true, create: !wanted.append, truncate: !wanted.append, ..OpenFlags::default() };
    let handle = client.open(path, flags).await?;
    let mut offset = client.fstat(&handle).await?.size.unwrap_or_default();
    let mut body = body.into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad(format!("the body broke off: {error}")))?;
        client.write(&handle, offset, &chunk).await?;
        offset += chunk.len() as u64;
    }
    // What was there keeps its owner and mode.
    if !exists {
        client.set(&handle, wanted.attributes(None)).await?;
    }
    Ok(client.close(&handle).await?)
}

pub(crate) async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>, caller: Caller) -> Answer {
    let (mut client, path) = session(&app, &caller, &name).await?;
    let path = path.as_bytes();
    match client.done(&::sftp::Request::Remove { path }).await {
        // A directory, perhaps; if not, this tells the same.
        Err(Error::Refused(Code::Failure, _)) => client.done(&::sftp::Request::Rmdir { path }).await?,
        other => other?,
    }
    Ok(reply::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_the_stock_daemons_read_them() {
        for (text, number) in [("0644", 0o644), ("0o4755", 0o4755), ("420", 0o644), ("0", 0)] {
            assert_eq!(mode(text), Ok(number), "{text}");
        }
        for text in ["", "0888", "rw", "-1", "99999", "0o"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_come_in_both_families() {
        let attributes = Attributes {
            size: Some(5),
            owner: Some((1000, 7)),
            mode: Some(0o100_640),
            times: Some((0, 1_795_439_173)),
        };
        let headers = headers(&attributes, Kind::File);
        for family in ["X-Incus", "X-LXD"] {
            let get =
                |name: &str| headers[format!("{family}-{name}").to_lowercase()].to_str().expect("text").to_owned();
            assert_eq!(
                (get("uid"), get("gid"), get("mode"), get("type")),
                ("1000".into(), "7".into(), "0640".into(), "file".into())
            );
            assert_eq!(get("modified"), "2026-11-23 13:06:13 +0000 UTC");
        }
    }
}
