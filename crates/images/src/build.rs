//! A recipe in, a tree below a directory descriptor out.
//!
//! The builder is `mmdebstrap`, which lets apt fetch and check packages and writes a tar archive; that archive goes through
//! the same reader and applier as a stranger's image. The caller is a child process that has, before [`start`]:
//!
//! - a user namespace whose root it is, with 65,536 ids ([`crate::Limits::ids`]), and groups dropped;
//! - a mount namespace of its own with everything private, because mmdebstrap binds device nodes and mounts `/proc`;
//! - a PID namespace with its `/proc` mounted, so that nothing of the build outlives it;
//! - the host's network, for the mirror;
//! - a scratch directory that belongs to root of that user namespace, with about 1 GB free, mounted at a place that it can
//!   reach (`/tmp` in its own mount namespace), as the daemon's own directories are closed to it.
//!
//! After [`start`], and before [`Building::finish`], it may give up all access by path (Landlock): what is still to be
//! done needs only descriptors.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;

use crate::apply::{Applier, LeftOut};
use crate::archive_path::escaped;
use crate::metadata::ImageMetadata;
use crate::recipe::{Architecture, Recipe};
use crate::tar::{Kind, Reader, Timestamp};
use crate::unpack::Progress;
use crate::{ArchivePath, Error, Limits, Result};

/// The builder.
const PROGRAM: &str = "mmdebstrap";
/// Last lines of its log that are kept for the error message, and the longest of them.
const LOG_LINES: usize = 20;
const LOG_LINE_BYTES: usize = 400;
/// What apt reads to find a proxy; all else of the caller's environment stays away.
const PASSED_ON: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];

/// How far a build is.
#[derive(Debug, Clone, Copy)]
pub struct BuildProgress<'a> {
    /// What the builder says it is doing, as "installing essential packages..."; printable.
    pub stage: &'a str,
    /// How much of the tree was written.
    pub unpack: Progress,
}

/// An image that was built; its tree is below the descriptor that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What the image says about itself.
    pub metadata: ImageMetadata,
    /// Entries of the tree.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What was left out, by the recipe (`foreign`) or because images do not have it.
    pub left_out: LeftOut,
}

/// A builder at work.
pub struct Building<'a> {
    recipe: &'a Recipe,
    architecture: Architecture,
    child: Child,
    output: Output,
}

/// Starts the builder, which begins to fetch packages. `scratch` is where it makes its tree, by absolute path.
pub fn start<'a>(recipe: &'a Recipe, architecture: Architecture, scratch: &Path) -> Result<Building<'a>> {
    let keyring = recipe.keyring();
    if !Path::new(keyring).exists() {
        return Err(Error::Keyring { path: keyring.to_owned() });
    }
    let mut command = Command::new(PROGRAM);
    command
        .args(recipe.mmdebstrap_arguments(architecture))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TMPDIR", scratch)
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .envs(PASSED_ON.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawn = |source| Error::Spawn { program: PROGRAM, source };
    let mut child = command.spawn().map_err(spawn)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(spawn(io::ErrorKind::BrokenPipe.into()));
    };
    // Reading what is there must not wait for more: there are two pipes and one of us.
    rustix::fs::fcntl_setfl(&stderr, OFlags::NONBLOCK).map_err(|errno| spawn(errno.into()))?;
    let output = Output { stdout, stderr: Some(stderr), log: Log::default() };
    Ok(Building { recipe, architecture, child, output })
}

impl Building<'_> {
    /// Waits for the tree, writes it below `root` (an empty directory) and adds what the recipe adds. On error the
    /// directory holds a part, for the caller to throw away; nothing is durable before the caller's `syncfs`.
    pub fn finish(
        mut self,
        root: BorrowedFd<'_>,
        limits: &Limits,
        progress: &mut dyn FnMut(BuildProgress<'_>),
    ) -> Result<Built> {
        let result = self.receive(root, limits, progress);
        if !matches!(result, Ok(_) | Err(Error::Truncated { .. })) {
            // It is alive and waits for us to read. (After its output has ended it is about to end too, and its own
            // status tells more.)
            let _ = self.child.kill();
        }
        let status = self.output.drain_log(&mut self.child).map_err(Error::Input)?;
        match result {
            // A builder that fails ends its archive early; why is in its log.
            Ok(_) | Err(Error::Truncated { .. }) if !status.success() => {
                Err(Error::Builder { program: PROGRAM, status: status.to_string(), log: self.output.log.text() })
            }
            result => result,
        }
    }

    fn receive(
        &mut self,
        root: BorrowedFd<'_>,
        limits: &Limits,
        progress: &mut dyn FnMut(BuildProgress<'_>),
    ) -> Result<Built> {
        let mut applier = Applier::new(root, *limits)?;
        self.output.wait_for_archive(&mut |stage| progress(BuildProgress { stage, unpack: Progress::default() }))?;
        let stage = self.output.log.stage.clone();
        let mut reader = Reader::new(&mut self.output, *limits, None);
        while let Some(entry) = reader.next_entry()? {
            let linked = match &entry.kind {
                Kind::HardLink(target) => self.recipe.takes(target),
                _ => true,
            };
            if linked && self.recipe.takes(&entry.path) {
                applier.apply(&entry, &mut reader, &mut || ())?;
            } else {
                applier.leave_out_foreign();
            }
            let unpack = Progress { bytes_in: reader.bytes(), entries: reader.entries() };
            progress(BuildProgress { stage: &stage, unpack });
        }
        let (entries, bytes) = (reader.entries(), reader.bytes());
        drop(reader);
        // The end mark is followed by padding; unread, it would end the builder by SIGPIPE.
        io::copy(&mut self.output, &mut io::sink()).map_err(Error::from_input)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let now = i64::try_from(now).unwrap_or(0);
        self.add(&mut applier, Timestamp { seconds: now, nanoseconds: 0 })?;
        let metadata = self.recipe.metadata(self.architecture, now);
        Ok(Built { metadata, entries, bytes, left_out: applier.finish()? })
    }

    /// Directories, files and links of the recipe, in this order.
    fn add(&self, applier: &mut Applier<'_>, now: Timestamp) -> Result<()> {
        for rule in &self.recipe.directories {
            applier.write_directory(&our_path(&rule.path)?, rule.mode, now)?;
        }
        // First the links: a file may lie below one in its written form, never in the tree.
        for rule in self.recipe.all_links() {
            applier.write_symlink(&our_path(&rule.path)?, rule.target.as_bytes(), now)?;
        }
        for rule in &self.recipe.files {
            applier.write_file(&our_path(&rule.path)?, rule.mode, rule.content.as_bytes(), now)?;
        }
        Ok(())
    }
}

fn our_path(path: &str) -> Result<ArchivePath> {
    ArchivePath::parse(path.as_bytes()).map_err(|problem| Error::Path { entry: 0, path: path.to_owned(), problem })
}

impl Drop for Building<'_> {
    /// Ends a builder that nobody waited for. (After [`Building::finish`] there is none, and both calls do nothing.)
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The builder's two pipes. The archive can be read only while its log is read too: a full pipe would stop it.
struct Output {
    stdout: ChildStdout,
    /// `None` after its end.
    stderr: Option<ChildStderr>,
    log: Log,
}

impl Output {
    /// Waits until there is an archive to read, or its end; reads the log meanwhile.
    fn wait_for_archive(&mut self, on_stage: &mut dyn FnMut(&str)) -> Result<()> {
        while !self.wait().map_err(Error::Input)? {
            if std::mem::take(&mut self.log.stage_changed) {
                on_stage(&self.log.stage);
            }
        }
        Ok(())
    }

    /// Waits for either pipe; reads what there is of the log. True when the archive's pipe has data or has ended.
    fn wait(&mut self) -> io::Result<bool> {
        let both = PollFlags::IN | PollFlags::HUP;
        let mut fds = vec![PollFd::new(&self.stdout, both)];
        fds.extend(self.stderr.as_ref().map(|stderr| PollFd::new(stderr, both)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
        let archive = !fds[0].revents().is_empty();
        if fds.get(1).is_some_and(|stderr| !stderr.revents().is_empty()) {
            self.read_log()?;
        }
        Ok(archive)
    }

    fn read_log(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        while let Some(stderr) = &mut self.stderr {
            match stderr.read(&mut bytes) {
                Ok(0) => self.stderr = None,
                Ok(count) => self.log.add(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the log to its end and waits for the builder.
    fn drain_log(&mut self, child: &mut Child) -> io::Result<std::process::ExitStatus> {
        while let Some(stderr) = &self.stderr {
            let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN | PollFlags::HUP)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => self.read_log()?,
                Err(errno) => return Err(errno.into()),
            }
        }
        child.wait()
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.wait()? {}
        self.stdout.read(buffer)
    }
}

/// The last lines of the builder's log.
#[derive(Default)]
struct Log {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    stage: String,
    stage_changed: bool,
}

impl Log {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    let line = escaped(&std::mem::take(&mut self.partial));
                    self.line(line);
                }
                _ if self.partial.len() < LOG_LINE_BYTES => self.partial.push(byte),
                _ => {}
            }
        }
    }

    fn line(&mut self, line: String) {
        // mmdebstrap marks what it says itself: I(nformation), W(arning), E(rror).
        if let Some(stage) = line.strip_prefix("I: ") {
            self.stage = stage.to_owned();
            self.stage_changed = true;
        }
        if !line.is_empty() {
            self.lines.push_back(line);
        }
        while self.lines.len() > LOG_LINES {
            self.lines.pop_front();
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_last_lines_and_tells_stages() {
        let mut log = Log::default();
        log.add(b"I: downloading packages with apt...\nGet:1 x\n\x1b[31mevil\nE: no space\npartial");
        assert_eq!(log.stage, "downloading packages with apt...");
        assert!(log.text().ends_with("Get:1 x | \\u{1b}[31mevil | E: no space"), "{}", log.text());
        (0..100_000).for_each(|_| log.add(b"spam spam spam"));
        assert!(log.partial.len() <= LOG_LINE_BYTES);
        (0..100).for_each(|_| log.add(b"\n"));
        assert!(log.lines.len() <= LOG_LINES);
    }
}
