//! Whole files, with several requests under way at a time: a round trip costs more than 32 KiB do.

use std::collections::VecDeque;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::packet::{DATA, FOR_READING, FOR_WRITING, Fields, OPEN, READ, STATUS, WRITE};
use super::{ACT, Attributes, Sftp, done, ended, expect, short};
use crate::error::{Error, Result};

/// Bytes per request: what every server takes.
const CHUNK: usize = 32 * 1024;

/// Requests under way at most: half a megabyte.
const WINDOW: usize = 16;

/// A part of a file that was asked for.
struct Part {
    id: u32,
    offset: u64,
    /// What has come of it.
    bytes: Vec<u8>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Asked,
    Whole,
    /// The file ends in it.
    Last,
}

impl Sftp {
    /// Copies a file of the instance to somewhere. Returns its length.
    pub async fn read_file(&mut self, path: &Path, target: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
        let open = |writer: super::Writer| writer.u32(FOR_READING).attributes(&Attributes::default());
        let handle = self.handle(OPEN, path, open).await?;
        let copied = self.read_parts(path, &handle, target).await?;
        self.close(path, &handle).await?;
        target.flush().await.map_err(|source| Error::Local { act: "writing what was read".into(), source })?;
        Ok(copied)
    }

    async fn read_parts(&mut self, path: &Path, handle: &[u8], target: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
        let mut parts: VecDeque<Part> = VecDeque::new();
        let (mut next, mut copied, mut over) = (0, 0, false);
        loop {
            while !over && parts.len() < WINDOW {
                let id = self.ask(handle, next, CHUNK).await?;
                parts.push_back(Part { id, offset: next, bytes: Vec::new(), state: State::Asked });
                next += CHUNK as u64;
            }
            if parts.is_empty() {
                return Ok(copied);
            }
            self.take_part(path, handle, &mut parts).await?;
            while parts.front().is_some_and(|part| part.state != State::Asked) {
                let Some(part) = parts.pop_front() else { break };
                // What lies past the end is waited for, so that the next request finds its own answer, and thrown away.
                if !over {
                    let written = target.write_all(&part.bytes).await;
                    written.map_err(|source| Error::Local { act: "writing what was read".into(), source })?;
                    copied += part.bytes.len() as u64;
                }
                over |= part.state == State::Last;
            }
        }
    }

    async fn ask(&mut self, handle: &[u8], offset: u64, length: usize) -> Result<u32> {
        let (id, writer) = self.request(READ);
        self.send(&writer.string(handle).u64(offset).u32(length as u32).finish()).await?;
        Ok(id)
    }

    /// Takes one answer. Of a part that came short, the rest is asked for: only a status says that a file ends.
    async fn take_part(&mut self, path: &Path, handle: &[u8], parts: &mut VecDeque<Part>) -> Result<()> {
        let answer = self.receive().await?;
        let part = parts.iter_mut().find(|part| part.id == answer.id && part.state == State::Asked);
        let part = part.ok_or_else(|| Error::protocol(ACT, format!("answer {} to no request", answer.id)))?;
        if answer.kind == STATUS {
            ended(path, &answer)?;
            part.state = State::Last;
            return Ok(());
        }
        expect(path, &answer, DATA)?;
        let bytes = Fields(&answer.body).string().ok_or_else(short)?;
        if bytes.is_empty() || part.bytes.len() + bytes.len() > CHUNK {
            return Err(Error::protocol(ACT, format!("{} bytes were answered to a read", bytes.len())));
        }
        part.bytes.extend_from_slice(bytes);
        if part.bytes.len() == CHUNK {
            part.state = State::Whole;
        } else {
            let (offset, missing) = (part.offset + part.bytes.len() as u64, CHUNK - part.bytes.len());
            part.id = self.ask(handle, offset, missing).await?;
        }
        Ok(())
    }

    /// Copies something to a file of the instance, which is made or emptied before. Returns its length.
    pub async fn write_file(
        &mut self,
        path: &Path,
        source: &mut (impl AsyncRead + Unpin),
        attributes: &Attributes,
    ) -> Result<u64> {
        let open = |writer: super::Writer| writer.u32(FOR_WRITING).attributes(attributes);
        let handle = self.handle(OPEN, path, open).await?;
        let mut pending = VecDeque::new();
        let mut offset = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = fill(source, &mut buffer).await;
            let length =
                length.map_err(|source| Error::Local { act: "reading what is to be written".into(), source })?;
            if length == 0 || pending.len() == WINDOW {
                self.take_written(path, &mut pending, length == 0).await?;
            }
            if length == 0 {
                break;
            }
            let (id, writer) = self.request(WRITE);
            self.send(&writer.string(&handle).u64(offset).string(&buffer[..length]).finish()).await?;
            pending.push_back(id);
            offset += length as u64;
        }
        self.close(path, &handle).await?;
        Ok(offset)
    }

    /// Takes one answer to a write, or all that are due.
    async fn take_written(&mut self, path: &Path, pending: &mut VecDeque<u32>, all: bool) -> Result<()> {
        while !pending.is_empty() {
            let answer = self.receive().await?;
            let found = pending.iter().position(|id| *id == answer.id);
            let found = found.ok_or_else(|| Error::protocol(ACT, format!("answer {} to no request", answer.id)))?;
            pending.remove(found);
            done(path, &answer)?;
            if !all {
                break;
            }
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the source ends.
async fn fill(source: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
