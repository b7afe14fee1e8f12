//! What must not be anywhere: `unsafe` outside of one crate, acts that the daemon never does, tests that wait or do not run.

use super::{File, code};

/// The one crate where unsafe code may stand.
const UNSAFE_HOME: &str = "kernel";

/// What the daemon never does, not even through a library: it makes no process, enters no namespace, mounts nothing, and
/// leaves its environment alone. (The spawn process is started by `posix_spawn` in `kernel`, where no code of ours runs
/// between fork and exec.)
const NEVER_IN_THE_DAEMON: [&str; 18] = [
    "process::Command",
    "Command::new",
    "fork(",
    "vfork(",
    "clone3(",
    "setns(",
    "enter_new(",
    "move_into_link_name_space(",
    "unshare(",
    "chroot(",
    "pivot_root(",
    "mount::mount",
    "mount(",
    "fsmount(",
    "move_mount(",
    "open_tree(",
    "set_var(",
    "remove_var(",
];

/// Crates whose code runs in the daemon's process and that decide or serve. Mechanism crates are used by the keeper as well.
const DAEMON: [&str; 5] = ["sysctld", "server", "engine", "plan", "store"];

pub(crate) fn check_unsafe(files: &[File]) -> Vec<String> {
    let elsewhere = files.iter().filter(|file| file.is_rust() && file.package() != Some(UNSAFE_HOME));
    let find = |file: &File| places(file, &code::only(&file.text), "unsafe");
    elsewhere.flat_map(find).map(|place| format!("{place}: unsafe code outside of crates/{UNSAFE_HOME}")).collect()
}

pub(crate) fn check_daemon(files: &[File]) -> Vec<String> {
    let daemon = files.iter().filter(|file| {
        let in_source = file.path.split('/').nth(2) == Some("src");
        file.is_rust() && in_source && file.package().is_some_and(|package| DAEMON.contains(&package))
    });
    let mut wrong = Vec::new();
    for file in daemon {
        let code = code::only(&file.text);
        // Tests start programs.
        let end = code::tests_begin(&code).unwrap_or(usize::MAX);
        let code: String = code.lines().take(end).map(|line| format!("{line}\n")).collect();
        for word in NEVER_IN_THE_DAEMON {
            let what = word.trim_end_matches('(');
            wrong.extend(places(file, &code, word).into_iter().map(|place| format!("{place}: {what} in the daemon")));
        }
    }
    wrong
}

/// Tests that are switched off, and tests that wait for time to pass instead of for what they are about.
pub(crate) fn check_tests(files: &[File]) -> Vec<String> {
    // Its `eventually` looks at states of foreign programs that nobody tells us of; the one place to wait in.
    const WAITS: &str = "crates/testkit/src/lib.rs";
    let mut wrong = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let code = code::only(&file.text);
        wrong.extend(
            places(file, &code, "#[ignore").into_iter().map(|place| format!("{place}: a test that does not run")),
        );
        let is_test = file.path.contains("/tests/") || file.path.starts_with("crates/testkit/");
        let begin = if is_test { 0 } else { code::tests_begin(&code).unwrap_or(usize::MAX) };
        let lines = code::lines_with(&code, "sleep(").into_iter().filter(|line| *line > begin && file.path != WAITS);
        wrong.extend(
            lines.map(|line| format!("{}:{line}: a test that sleeps: wait for an event or use eventually", file.path)),
        );
    }
    wrong
}

fn places(file: &File, code: &str, word: &str) -> Vec<String> {
    code::lines_with(code, word).into_iter().map(|line| format!("{}:{line}", file.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn unsafe_is_found_where_it_is_code() {
        let home = file("crates/kernel/src/a.rs", "unsafe { x() }");
        let words = file("crates/plan/src/a.rs", "// unsafe\n#![forbid(unsafe_code)]\nlet x = \"unsafe\";");
        assert_eq!(check_unsafe(&[home, words]), [""; 0]);
        assert_eq!(check_unsafe(&[file("crates/plan/tests/a.rs", "\nunsafe fn x() {}")]).len(), 1);
    }

    #[test]
    fn the_daemon_makes_no_process() {
        let find = |path: &str, text: &str| check_daemon(&[file(path, text)]);
        assert_eq!(find("crates/sysctld/src/a.rs", "\nstd::process::Command::new(x)").len(), 2);
        assert_eq!(find("crates/engine/src/a.rs", "enum Command { Look }\nCommand::Look; // fork()"), [""; 0]);
        assert_eq!(
            find("crates/server/src/a.rs", "a();\n#[cfg(test)]\nmod tests { fn x() { Command::new(y) } }"),
            [""; 0]
        );
        assert_eq!(find("crates/sysctld/tests/a.rs", "Command::new(y)"), [""; 0]);
        assert_eq!(find("crates/keeper/src/a.rs", "setns(x)"), [""; 0]);
        assert_eq!(find("crates/sysctld/src/a.rs", "rustix::thread::unshare(x); env::set_var(a, b)").len(), 2);
    }

    #[test]
    fn tests_run_and_do_not_sleep() {
        let find = |path: &str, text: &str| check_tests(&[file(path, text)]).len();
        assert_eq!(find("crates/a/src/a.rs", "sleep(1);"), 0);
        assert_eq!(find("crates/a/src/a.rs", "x();\n#[cfg(test)]\nmod tests { sleep(1); }"), 1);
        assert_eq!(find("crates/a/tests/a.rs", "thread::sleep(1)"), 1);
        assert_eq!(find("crates/a/tests/a.rs", "#[ignore]\nfn x() {}"), 1);
        assert_eq!(find("crates/a/tests/a.rs", "sh(\"sleep(1)\"); // sleep(1)"), 0);
    }
}
