//! The driver's side of `bench-bare`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Result, act, programs, until_stamp};

/// A bare process for one image.
#[derive(Debug)]
pub(crate) struct Bare {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    work: PathBuf,
    next: u32,
}

impl Bare {
    /// On a layer (a directory); `bridge` is the index of the bridge that links are put into.
    pub(crate) fn new(layer: &Path, work: &Path, bridge: u32) -> Result<Bare> {
        let mut command = Command::new(programs("bench-bare")?);
        command.arg(layer).arg(work).arg("/sbin/init").arg(bridge.to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(act("start bench-bare"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("no output")?);
        Ok(Bare { child, input, output: BufReader::new(output), work: work.to_owned(), next: 0 })
    }

    fn tell(&mut self, line: &str) -> Result<String> {
        let input = self.input.as_mut().ok_or("it has ended")?;
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(act("bare"))?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(act("bare"))?;
        match answer.trim_end() {
            "" => Err(format!("bare {line}: it ended")),
            text if text.starts_with("error") => Err(format!("bare {line}: {text}")),
            text => Ok(text.to_owned()),
        }
    }

    fn nanoseconds(&mut self, line: &str) -> Result<f64> {
        let answer = self.tell(line)?;
        answer.parse::<f64>().map(|ns| ns / 1e6).map_err(act(line))
    }

    /// Milliseconds of one durable record.
    pub(crate) fn commit(&mut self) -> Result<f64> {
        self.nanoseconds("commit")
    }

    /// Starts a guest: its number, its pid, and when it was begun in milliseconds.
    pub(crate) fn start(&mut self, nic: bool) -> Result<(u32, u32, f64)> {
        let number = self.next;
        self.next += 1;
        let answer = self.tell(&format!("start {number} {}", if nic { "nic" } else { "plain" }))?;
        let (pid, begun) = answer.split_once(' ').ok_or("bare: no time")?;
        Ok((number, pid.parse().map_err(act("pid"))?, begun.parse::<f64>().map_err(act("time"))? / 1e6))
    }

    /// When a guest's init began, in milliseconds.
    pub(crate) fn stamp(&self, number: u32, begun: f64) -> Result<f64> {
        until_stamp(&self.work.join(format!("{number}/fs/upper/ts")), begun)
    }

    /// Milliseconds to end a guest.
    pub(crate) fn stop(&mut self, number: u32) -> Result<f64> {
        let time = self.nanoseconds(&format!("stop {number}"))?;
        self.tell(&format!("remove {number}"))?;
        Ok(time)
    }

    /// Milliseconds of a `true` in a guest.
    pub(crate) fn exec(&mut self, number: u32) -> Result<f64> {
        self.nanoseconds(&format!("exec {number}"))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The end of its input makes it stop its guests and remove its groups.
        self.input = None;
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.work);
    }
}
