//! The examples of the README, line by line as somebody would type them.

use std::process::Command;

use super::{Daemon, program};

/// The lines of the first example after `words`.
pub fn example_after(words: &str) -> Vec<String> {
    const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let text = std::fs::read_to_string(README).expect("README.md");
    let (_, rest) = text.split_once(words).expect("the part");
    let (_, rest) = rest.split_once("```sh\n").expect("an example");
    let (block, _) = rest.split_once("```").expect("its end");
    block.lines().map(str::to_owned).collect()
}

/// Whether a line did what it should, and what it said.
pub fn type_line(daemon: &Daemon, line: &str) -> (bool, String) {
    let programs = program("sysctl-cli").parent().expect("a directory").display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("PATH={programs}:$PATH; {line}")]).env("SYSCTL_SOCKET", daemon.client.socket());
    let output = shell.output().expect("sh");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
