//! The rows about guests: starting, stopping, exec, launches, storms, restarts, and what they take.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bare::Bare;
use crate::daemons::{Daemon, run};
use crate::figures::Figures;
use crate::http::Http;
use crate::memory::Memory;
use crate::{Options, Result, act, balloon, boots, images, limits, lists, memory, now_ms, tell, until_stamp};

/// Requests at a time in a storm.
const PARALLEL: usize = 4;

/// Everything under test.
pub(crate) struct Field {
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) bare: Bare,
    pub(crate) quick: bool,
}

/// All rows that are asked for.
pub(crate) fn all(options: &Options, scratch: &Path, cache: &Path, figures: &mut Figures) -> Result<()> {
    // Before the daemons, so that it goes after them.
    let bridge = Bridge::new()?;
    let ours = Daemon::ours(&scratch.join("ours"))?;
    if options.wants(&["5a", "5a-all"]) {
        idle(&ours, figures)?;
    }
    tell("images");
    let archive = images::stamped(&images::built(&ours, "busybox", cache)?, scratch)?;
    ours.import(&archive, "bb")?;
    let mut daemons = vec![ours];
    match Daemon::incus(&scratch.join("incus"), &bridge.name) {
        Ok(Some(incus)) => {
            if options.wants(&["5a"]) {
                figures.put("5a", "incus", Memory::of(incus.pid())?.pss as f64 / 1024.0);
            }
            figures.notes.extend(incus.missing.clone());
            incus.import(&archive, "bb")?;
            daemons.push(incus);
        }
        Ok(None) => figures.notes.push("Incus is not installed: no figures of it".into()),
        Err(text) => figures.notes.push(format!("Incus does not start: {text}")),
    }
    // Unpacks the layer that the bare guests stand on as well.
    daemons[0].http().create("first", "bb", false)?;
    let layer = daemons[0].layer("bb")?;
    let bare = Bare::new(&layer, &scratch.join("bare"), bridge.index)?;
    let mut field = Field { daemons, bare, quick: options.quick };

    if options.wants(&["1a", "1a-reply", "1c"]) {
        starts(&mut field, "1a", false, figures)?;
    }
    if options.wants(&["1b"]) {
        starts(&mut field, "1b", true, figures)?;
    }
    if options.wants(&["9", "9-effect", "9-freeze", "9-freeze-effect"]) {
        limits::all(&field, scratch, figures)?;
    }
    if options.wants(&["13-give", "13-take"]) {
        balloon::all(&field, scratch, figures)?;
    }
    if options.wants(&["3a", "3a-cold", "3a-row", "3b"]) {
        execs(&mut field, figures)?;
    }
    if options.wants(&[
        "10",
        "10-cpu",
        "5c",
        "5c-pss",
        "5c-daemon",
        "5c-fds",
        "5c-daemon-fds",
        "11",
        "11-kill",
        "11-dead",
    ]) {
        storms(&mut field, options, figures)?;
    }
    if options.wants(&["2a", "2b"]) {
        tell("2a, 2b: launches of Debian");
        let archive = images::built(&field.daemons[0], "debian/13", cache)?;
        boots::launches(&mut field, &archive, scratch, bridge.index, figures)?;
    }
    if options.wants(&["4a", "4b", "4c", "4d", "5b"]) {
        lists::all(&mut field, options, scratch, figures)?;
    }
    Ok(())
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn idle(ours: &Daemon, figures: &mut Figures) -> Result<()> {
    let daemon = Memory::of(ours.pid())?;
    figures.put("5a", "ours", megabytes(daemon.pss));
    let others = memory::spawn_and_spare(&ours.runtime());
    let all: u64 = others.iter().filter_map(|pid| Memory::of(*pid).ok()).map(|m| m.total()).sum();
    figures.put("5a-all", "ours", megabytes(daemon.total() + all));
    Ok(())
}

fn init_stamp(pid: u32, begun: f64) -> Result<f64> {
    until_stamp(Path::new(&format!("/proc/{pid}/root/ts")), begun)
}

/// Waits until what the one before left behind is over, so that nobody pays for another or is spared by one.
///
/// A process that is moved into a v1 group takes a lock of the kernel's that costs an RCU grace period (about 12 ms) when
/// nobody took it for a moment, and next to nothing right after: without this, whoever comes second looks faster.
pub(crate) fn calm() {
    std::thread::sleep(Duration::from_millis(250));
}

/// Who measures at place `place` of round `round`: each comes first as often as last, and after each of the others.
fn turn(round: usize, place: usize, contenders: usize) -> usize {
    let place = if round.is_multiple_of(2) { place } else { contenders - 1 - place };
    (round + place) % contenders
}

/// Rows 1a, 1b, 1c.
fn starts(field: &mut Field, row: &str, nic: bool, figures: &mut Figures) -> Result<()> {
    tell(&format!("{row}, 1c: starts and stops"));
    let name = format!("i{row}");
    for daemon in &field.daemons {
        daemon.http().create(&name, "bb", nic)?;
    }
    let contenders = field.daemons.len() + 1;
    for round in 0..if field.quick { 9 } else { 30 } {
        for place in 0..contenders {
            match turn(round, place, contenders).checked_sub(1) {
                None => bare_start_and_stop(&mut field.bare, row, nic, figures)?,
                Some(index) => {
                    let daemon = &field.daemons[index];
                    let took = start_and_stop(daemon, &name, nic, figures);
                    figures.take(row, daemon.name, took);
                }
            }
        }
    }
    for daemon in &field.daemons {
        daemon.http().delete(&name)?;
    }
    Ok(())
}

fn bare_start_and_stop(bare: &mut Bare, row: &str, nic: bool, figures: &mut Figures) -> Result<()> {
    let commit = bare.commit()?;
    calm();
    let (number, _, begun) = bare.start(nic)?;
    let took = bare.stamp(number, begun)? - begun;
    figures.put(row, "bare", took);
    figures.put(row, "bare+commit", took + commit);
    calm();
    let stopped = bare.stop(number)?;
    if !nic {
        figures.put("1c", "bare", stopped);
    }
    Ok(())
}

fn start_and_stop(daemon: &Daemon, name: &str, nic: bool, figures: &mut Figures) -> Result<f64> {
    let mut http = daemon.http();
    // The connection is there before the clock runs.
    http.ask("GET", "/1.0", &Value::Null)?;
    calm();
    let begun = now_ms();
    http.state(name, "start")?;
    let replied = now_ms() - begun;
    let took = http.pid(name).and_then(|pid| init_stamp(pid, begun)).map(|stamp| stamp - begun);
    calm();
    let begun = now_ms();
    http.state(name, "stop")?;
    if !nic {
        figures.put("1a-reply", daemon.name, replied);
        figures.put("1c", daemon.name, now_ms() - begun);
    }
    took
}

/// Rows 3a, 3b.
fn execs(field: &mut Field, figures: &mut Figures) -> Result<()> {
    tell("3a, 3b: exec");
    let (number, _, begun) = field.bare.start(false)?;
    field.bare.stamp(number, begun)?;
    for daemon in &field.daemons {
        daemon.http().create("x", "bb", false)?;
        daemon.http().state("x", "start")?;
    }
    let contenders = field.daemons.len() + 1;
    for round in 0..if field.quick { 9 } else { 30 } {
        for place in 0..contenders {
            let index = turn(round, place, contenders).checked_sub(1);
            exec_turn(field, index, number, figures)?;
        }
        for place in 0..field.daemons.len() {
            let daemon = &field.daemons[turn(round, place, field.daemons.len())];
            calm();
            let begun = now_ms();
            let done = run(&mut daemon.client(&["exec", "x", "--", "true"])?);
            figures.take("3b", daemon.name, done.map(|_| now_ms() - begun));
        }
    }
    cold_execs(field, number, figures)?;
    for daemon in &field.daemons {
        daemon.http().state("x", "stop")?;
        daemon.http().delete("x")?;
    }
    field.bare.stop(number).map(drop)
}

/// The first exec in a while, by each in turn: what was made ready for the next one by the last is gone by then.
fn cold_execs(field: &mut Field, number: u32, figures: &mut Figures) -> Result<()> {
    // A keeper holds a stage ready for five seconds.
    const PAUSE: Duration = Duration::from_secs(6);
    let contenders = field.daemons.len() + 1;
    for round in 0..if field.quick { 3 } else { 9 } {
        // One pause for all: each waits for the others' too, which only makes it colder.
        std::thread::sleep(PAUSE);
        for place in 0..contenders {
            calm();
            match turn(round, place, contenders).checked_sub(1) {
                None => figures.take("3a-cold", "bare", field.bare.exec(number)),
                Some(index) => {
                    let daemon = &field.daemons[index];
                    let mut http = daemon.http();
                    http.ask("GET", "/1.0", &Value::Null)?;
                    figures.take("3a-cold", daemon.name, exec(&mut http));
                }
            }
        }
    }
    Ok(())
}

/// One exec after a pause, and then a few without.
fn exec_turn(field: &mut Field, daemon: Option<usize>, number: u32, figures: &mut Figures) -> Result<()> {
    const MORE: usize = 5;
    let Some(index) = daemon else {
        calm();
        figures.take("3a", "bare", field.bare.exec(number));
        for _ in 0..MORE {
            figures.take("3a-row", "bare", field.bare.exec(number));
        }
        return Ok(());
    };
    let daemon = &field.daemons[index];
    let mut http = daemon.http();
    http.ask("GET", "/1.0", &Value::Null)?;
    calm();
    figures.take("3a", daemon.name, exec(&mut http));
    for _ in 0..MORE {
        figures.take("3a-row", daemon.name, exec(&mut http));
    }
    Ok(())
}

fn exec(http: &mut Http) -> Result<f64> {
    let order = json!({"command": ["true"], "wait-for-websocket": false, "interactive": false});
    let begun = now_ms();
    let done = http.finish("POST", "/1.0/instances/x/exec", &order)?;
    let took = now_ms() - begun;
    let code = &done["metadata"]["return"];
    if *code == 0 { Ok(took) } else { Err(format!("it returned {code}")) }
}

/// Does something for each number, four at a time; the first failure is told.
fn each(count: usize, act: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            act(number)?;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a worker failed".into())))
    })
}

/// Rows 10, 5c and 11.
fn storms(field: &mut Field, options: &Options, figures: &mut Figures) -> Result<()> {
    let count = if field.quick { 20 } else { 50 };
    tell(&format!("10, 5c, 11: {count} guests"));
    for _ in 0..if field.quick { 1 } else { 3 } {
        bare_storm(&mut field.bare, count, figures)?;
    }
    for index in 0..field.daemons.len() {
        let daemon = &mut field.daemons[index];
        let name = |n: usize| format!("s{n}");
        each(count, |n| daemon.http().create(&name(n), "bb", false))?;
        for _ in 0..if options.quick || daemon.name != "ours" { 1 } else { 3 } {
            each(count, |n| daemon.http().state(&name(n), "stop").or(Ok(())))?;
            storm(daemon, count, figures)?;
        }
        if options.wants(&["11", "11-kill", "11-dead"]) {
            restarts(daemon, count, options, figures)?;
        }
        each(count, |n| {
            let mut http = daemon.http();
            http.state(&name(n), "stop")?;
            http.delete(&name(n))
        })?;
    }
    Ok(())
}

fn bare_storm(bare: &mut Bare, count: usize, figures: &mut Figures) -> Result<()> {
    calm();
    let began = now_ms();
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(bare.start(false)?);
    }
    let mut last = began;
    for (number, _, begun) in &numbers {
        last = last.max(bare.stamp(*number, *begun)?);
    }
    figures.put("10", "bare", (last - began) / count as f64);
    numbers.into_iter().try_for_each(|(number, ..)| bare.stop(number).map(drop))
}

fn storm(daemon: &Daemon, count: usize, figures: &mut Figures) -> Result<()> {
    let before = Memory::of(daemon.pid())?;
    calm();
    let (cpu, began) = (memory::cpu_ms(daemon.pid()), now_ms());
    each(count, |n| daemon.http().state(&format!("s{n}"), "start"))?;
    let cpu = memory::cpu_ms(daemon.pid()) - cpu;
    let mut http = daemon.http();
    let pids = (0..count).map(|n| http.pid(&format!("s{n}"))).collect::<Result<Vec<u32>>>()?;
    let mut last = began;
    for pid in &pids {
        last = last.max(init_stamp(*pid, began)?);
    }
    figures.put("10", daemon.name, (last - began) / count as f64);
    figures.put("10-cpu", daemon.name, cpu / count as f64);
    let outside: Vec<Memory> =
        pids.iter().filter_map(|pid| memory::parent(*pid)).filter_map(|keeper| Memory::of(keeper).ok()).collect();
    let after = Memory::of(daemon.pid())?;
    let per_guest = |sum: u64| sum as f64 / count as f64;
    figures.put("5c", daemon.name, per_guest(outside.iter().map(Memory::total).sum()) / 1024.0);
    figures.put("5c-pss", daemon.name, per_guest(outside.iter().map(|m| m.pss).sum()) / 1024.0);
    figures.put("5c-daemon", daemon.name, per_guest(after.pss.saturating_sub(before.pss)) / 1024.0);
    let fds = per_guest(after.fds.saturating_sub(before.fds));
    figures.put("5c-daemon-fds", daemon.name, fds);
    figures.put("5c-fds", daemon.name, fds + per_guest(outside.iter().map(|m| m.fds).sum()));
    Ok(())
}

fn restarts(daemon: &mut Daemon, count: usize, options: &Options, figures: &mut Figures) -> Result<()> {
    let pids = (0..count).map(|n| daemon.http().pid(&format!("s{n}"))).collect::<Result<Vec<u32>>>()?;
    for _ in 0..if options.quick || daemon.name != "ours" { 1 } else { 5 } {
        for (row, signal) in [("11", Signal::TERM), ("11-kill", Signal::KILL)] {
            let took = daemon.restart(signal)?;
            figures.put(row, daemon.name, took);
            let mut http = daemon.http();
            let alive = pids
                .iter()
                .enumerate()
                .filter(|(n, pid)| http.pid(&format!("s{n}")).is_ok_and(|now| now == **pid))
                .count();
            figures.put("11-dead", daemon.name, (count - alive) as f64);
        }
    }
    Ok(())
}

/// The bridge of bare guests.
struct Bridge {
    name: String,
    index: u32,
}

impl Bridge {
    fn new() -> Result<Bridge> {
        let name = format!("bb{}", std::process::id());
        run(Command::new("ip").args(["link", "add", &name, "type", "bridge"]))?;
        let mut bridge = Bridge { name, index: 0 };
        run(Command::new("ip").args(["link", "set", &bridge.name, "up"]))?;
        let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", bridge.name)).map_err(act("ifindex"))?;
        bridge.index = index.trim().parse().map_err(act("ifindex"))?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["link", "delete", &self.name]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_follows_each_of_the_others_equally_often() {
        let mut after = std::collections::BTreeMap::new();
        for round in 0..6 {
            for place in 1..3 {
                *after.entry((turn(round, place - 1, 3), turn(round, place, 3))).or_insert(0) += 1;
            }
        }
        assert_eq!(after.len(), 6);
        assert!(after.values().all(|count| *count == 2), "{after:?}");
    }
}
