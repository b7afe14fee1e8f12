//! Bodies that are read from somewhere while they are sent.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::connection::Body;

/// What is sent: a file, or anything else that bytes can be read from.
pub type Reader = Box<dyn AsyncRead + Send + Unpin + 'static>;

/// Bytes per read: few system calls, and little memory.
const CHUNK: usize = 128 * 1024;

type Chunks = std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

fn chunks(reader: Reader) -> Chunks {
    Box::pin(ReaderStream::with_capacity(reader, CHUNK))
}

fn text(text: String) -> Chunks {
    Box::pin(stream::once(async move { Ok(Bytes::from(text)) }))
}

fn body(chunks: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// One file.
pub(crate) fn single(reader: Reader) -> Body {
    body(chunks(reader))
}

/// Files as parts of a form, and the content type that goes with them.
pub(crate) fn form(parts: Vec<(&str, &str, Reader)>) -> (String, Body) {
    // The files are not looked at: the boundary has to be one that no file has in it by accident. 128 bits are enough.
    let boundary: String = tokio_tungstenite::tungstenite::handshake::client::generate_key()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let mut streams: Vec<Chunks> = Vec::new();
    for (name, filename, reader) in parts {
        let filename: String = filename.chars().map(|c| if c == '"' || c.is_control() { '_' } else { c }).collect();
        streams.push(text(format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{filename}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        )));
        streams.push(chunks(reader));
        streams.push(text("\r\n".to_owned()));
    }
    streams.push(text(format!("--{boundary}--\r\n")));
    (format!("multipart/form-data; boundary={boundary}"), body(stream::iter(streams).flatten()))
}
